"""Maps that a cheap session gives the trend of: runs, their replay, what the map says of itself, tunings."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from support.tiny_transformers import awake
from support.truth import brute_force
from support.wide import STRIDES, WINDOW, Wide, blobs, calibrated
from torch import nn

from krypton_engine import Heatmap, KryptonOcclusion
from krypton_engine.approximation.ssim import SsimEstimate, ssim
from krypton_engine.attr import explain
from krypton_engine.attr.request import heatmap_request
from krypton_engine.errors import FallbackWarning, InputError, OcclusionCancelled
from krypton_engine.executors.base import Computed
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.heatmap.identity import Origin
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.changed import ChangedCells, distinct_work
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning.planner import Preparer
from krypton_engine.run.adaptive import StoppingRule
from krypton_engine.run.fidelity import Cheap, worth_while
from krypton_engine.run.loop import Watch, refine
from krypton_engine.tuning.curves import Way
from krypton_engine.tuning.fingerprint import Fingerprint
from krypton_engine.tuning.replay import curves_of, replay
from krypton_engine.tuning.tuning import Tuning


class Table:
    """A session that looks its outputs up in a map; one with an effect is a cheap one."""

    at_once = 1
    costs = None

    def __init__(self, window, differs, values, effect=None):
        self.window, self.changed = window, ChangedCells(window, differs)
        self.base = torch.zeros(1, 1, dtype=torch.float64)
        self.effect, self.asked = effect, 0
        every = np.arange(len(window), dtype=np.int64)
        self.outputs = dict(zip(map(bytes, self.changed.boxes(every)), values.flatten(), strict=True))

    def compute(self, changes, limit=None, contents=None):
        self.asked += len(changes)
        values = torch.tensor([self.outputs[bytes(change)] for change in changes], dtype=torch.float64)
        dropped = None if self.effect is None else np.full(len(changes), self.effect)
        yield Computed(np.arange(len(changes)), values[:, None] - (self.effect or 0.0), dropped)

    def trimmed(self, epsilon, head):
        return self


def tables(seed, size, shape, off):
    """An exact and a cheap session of a random map, and what they know."""
    generator = np.random.default_rng(seed)
    window = SlidingWindow(size, shape, (1, 1))
    differs = generator.random(size) < generator.choice([0.05, 1.0])
    truth = gaussian_filter(generator.normal(size=window.grid_shape), generator.choice([1, 2, 4]))
    cheap = truth + off * truth.std() * generator.normal(size=truth.shape)
    work = distinct_work(ChangedCells(window, differs), np.arange(truth.size))
    for values in (truth, cheap):
        values.flat[work.unchanged] = 0.0  # the base
        for alike in work.positions:
            values.flat[alike] = values.flat[alike[0]]
    # As rounded when the effect is taken off and added back.
    return (
        Table(window, differs, truth),
        Table(window, differs, cheap, 0.25),
        work,
        truth,
        cheap - 0.25 + 0.25,
    )


def refined(session, cheap, truth, rule):
    builder = MapBuilder(
        session.window, session.base, lambda outputs: outputs[:, 0], fill=np.arange(truth.size)
    )
    with Watch(truth.size, None, False) as watch:
        refine(session, np.arange(truth.size), builder, watch, rule, cheap=lambda _: cheap)
    return builder.heatmap()


@given(
    st.integers(0, 9999),
    st.tuples(st.integers(8, 24), st.integers(8, 24)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([0.0, 0.1, 2.0]),
    st.sampled_from([0.4, 0.7, 0.9, 0.97]),
    st.sampled_from([1, 20]),
    st.sampled_from([0.125, 1.0]),
)
@settings(max_examples=40)
def test_a_run_stops_where_its_replay_says(seed, size, shape, off, target, at_once, cost):
    session, cheap, work, truth, trend = tables(seed, size, shape, off)
    rule = StoppingRule(target, at_once=at_once, drift=True, cost=cost)
    found = refined(session, cheap, truth, rule)
    by_both = worth_while(work)
    assert bool(cheap.asked) == by_both
    looks = replay(
        session.window, work, truth, truth, at_once, Cheap(0.0, cost, judged=True) if by_both else None, trend
    )
    enough = [look for look in looks if 1 - rule.factor * (1 - look.expected) >= target]
    if enough:
        assert (session.asked, cheap.asked) == (enough[0].computed, enough[0].cheaply if by_both else 0)
        assert found.ssim_estimate == SsimEstimate.of(enough[0].expected)
    else:
        assert session.asked == len(work.positions) and bool(found.measured.all())


def test_without_a_cheap_session_nothing_changes():
    session, _, _, truth, _ = tables(3, (24, 24), (4, 4), 0.1)
    plain = refined(session, None, truth, StoppingRule(0.8))
    assert refined(session, None, truth, StoppingRule(0.8, drift=True)) == plain and plain.cheap is None


def test_a_cheap_map_that_is_not_finite_is_not_relied_on():
    session, cheap, work, truth, _ = dense(4)
    cheap.outputs = {key: np.nan for key in cheap.outputs}
    found = refined(session, cheap, truth, StoppingRule(0.9, drift=True))
    assert bool(found.values.isfinite().all()) and found.ssim_estimate.low >= 0.9
    assert cheap.asked < 0.3 * len(work.positions)


# --- of a model ---------------------------------------------------------------------------------------


class Context(nn.Module):
    """A global context whose softmax over cells is all but a choice of one: its exponentials overflow."""

    def __init__(self):
        super().__init__()
        self.first, self.key, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = self.first(x).relu()
        weights = (3000 * self.key(x)).flatten(2).softmax(2)
        x = x + (x.flatten(2) @ weights.transpose(1, 2))[..., None]
        return self.out(x).relu().mean((2, 3))


def test_a_softmax_over_cells_whose_exponentials_overflow():
    torch.manual_seed(0)
    model, x = Context().eval(), torch.rand(1, 3, 32, 32)
    assert not model.key(model.first(x).relu()).mul(3000).exp().isfinite().all()
    occlusion = KryptonOcclusion(model)
    found, exact = (occlusion.heatmap(x, (3, 8, 8), (3, 2, 2), target=1, ssim_target=t) for t in (0.9, None))
    assert found.compare(exact).ssim > 0.85


@pytest.fixture(scope="module")
def wide():
    return calibrated()


RULE = StoppingRule(0.8, 1.5, epsilon=0.3, drift=True, cost=0.25)


def reaching(model, x, rule=RULE, on_progress=None):
    preparer = Preparer("auto", None)
    with torch.no_grad():
        request = heatmap_request(model, x, WINDOW, STRIDES, None, 1, None, None, preparer.budget)
        request = replace(request, rule=rule, fills=True)
        return explain.heatmap(preparer, request, time.perf_counter(), on_progress, False, Origin())


@pytest.fixture(scope="module")
def exact(wide):
    return KryptonOcclusion(wide).heatmap(blobs(0), WINDOW, STRIDES, target=1)


@pytest.fixture(scope="module")
def found(wide):
    return reaching(wide, blobs(0))


def test_the_map_says_what_is_linearised(wide, found, exact):
    linearised = found.status == Status.LINEARISED
    assert torch.equal(linearised, ~found.measured & ~found.cheap.isnan())
    assert int(linearised.sum()) > int((found.status == Status.EXACT).sum()) > 0
    assert bool((found.status == Status.INTERPOLATED).any()) and not bool(
        (found.status == Status.UNKNOWN).any()
    )
    error = (found.values - exact.values).abs()
    assert float(error[found.measured].max()) <= 1e-5 * float(exact.values.abs().max())
    assert found.compare(exact).ssim > 0.8 and found.ssim_estimate.basis == "online"


def test_what_nothing_less_satisfies_is_exact_everywhere(wide, exact):
    whole = reaching(wide, blobs(0), replace(RULE, ssim_target=1 - 1e-9))
    assert bool((whole.status == Status.EXACT).all()) and whole.ssim_estimate.basis == "exact"
    assert whole.cheap is None and whole.compare(exact).ssim > 0.9999


def test_files_keep_it(wide, found, tmp_path):
    found.save(tmp_path / "map.npz")
    loaded = Heatmap.load(tmp_path / "map.npz")
    assert loaded == found and torch.equal(loaded.status, found.status)
    assert bool((loaded.verify(KryptonOcclusion(wide), 1.0).status == Status.EXACT).all())


def test_verify_measures_what_is_linearised(wide, found, exact):
    verified = found.verify(KryptonOcclusion(wide), 0.2)
    new = verified.measured & ~found.measured
    for status in (Status.LINEARISED, Status.INTERPOLATED):
        assert bool((found.status[new] == status).any())
    truth, estimate = verified.compare(exact).ssim, verified.ssim_estimate
    assert estimate.basis == "verified" and estimate.low - 0.05 <= truth <= estimate.high + 0.05


def test_cancelled_and_resumed(wide, exact):
    asked = []
    with pytest.raises(OcclusionCancelled) as cut:
        reaching(wide, blobs(0), on_progress=lambda so_far, *_: asked.append(so_far) or len(asked) < 12)
    part = cut.value.partial
    assert part.cheap is not None and bool(part.values.isfinite().all())
    rest = KryptonOcclusion(wide).heatmap(blobs(0), WINDOW, STRIDES, target=1, resume=part)
    assert bool((rest.status == Status.EXACT).all()) and rest.compare(exact).ssim > 0.9999


# --- of models that see the whole image ---------------------------------------------------------------


class Gated(nn.Module):
    """Three levels, each with a gate from all of its cells."""

    def __init__(self):
        super().__init__()
        widths = (3, 12, 16, 24)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.SiLU()) for a, b in pairwise(widths)
        )
        self.gates = nn.ModuleList(nn.Conv2d(b, b, 1) for b in widths[1:])
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        for i, (conv, gate) in enumerate(zip(self.convs, self.gates, strict=True)):
            x = conv(x)
            x = x * gate(x.mean((2, 3), keepdim=True)).sigmoid()
            x = nn.functional.avg_pool2d(x, 2) if i < 2 else x
        return self.head(x.mean((2, 3)))


def attending():
    """A vision transformer whose attentions tell patches apart."""
    return awake(
        timm.create_model(
            "vit_tiny_patch16_224",
            img_size=64,
            patch_size=4,
            depth=3,
            num_classes=5,
            embed_dim=48,
            num_heads=3,
        )
    ).float()


@pytest.fixture(scope="module", params=[Gated, attending], ids=["gates", "attention"])
def seeing(request):
    torch.manual_seed(3)
    model = strong(request.param())
    # Of networks as small as these, both sessions take about as long.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("krypton_engine.run.loop.rounded_cost", lambda *_: 0.125)
        yield model, KryptonOcclusion(model)


def strong(model):
    """A model whose layers say something of the image, not of their biases alone."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn_like(parameter) * (2 / parameter[0].numel()) ** 0.5
    return model.eval()


def test_a_target_linearises_what_sees_the_whole_image(seeing):
    model, occlusion = seeing
    x = blobs(1)
    with pytest.warns(FallbackWarning, match="full inference wherever it is exact: .* would not pay"):
        exact = occlusion.heatmap(x, WINDOW, STRIDES, target=1)
    found = occlusion.heatmap(x, WINDOW, STRIDES, target=1, ssim_target=0.9)
    assert bool((exact.status == Status.EXACT).all()) and exact.cheap is None
    measured, linearised = (int((found.status == s).sum()) for s in (Status.EXACT, Status.LINEARISED))
    assert 16 <= measured < 0.1 * exact.values.numel() < linearised
    assert found.compare(exact).ssim > 0.9 and found.ssim_estimate.low >= 0.85
    truth = brute_force(model, x, WINDOW, STRIDES)[:, 1].reshape(found.values.shape)
    assert torch.allclose(exact.values, truth, rtol=0, atol=1e-5 * float(truth.abs().max()))
    assert ssim(found.values.double(), truth.double()) > 0.9


def test_attributions_with_a_target_do_so_too(seeing):
    _, occlusion = seeing
    x = blobs(2)
    exact = occlusion.attribute(x, WINDOW, STRIDES, target=1)
    found = occlusion.attribute(x, WINDOW, STRIDES, target=1, ssim_target=0.8)
    assert not torch.equal(found, exact)
    assert float((found - exact).std()) < 0.5 * float(exact.std())


def test_without_gradients_positions_are_chosen_alone():
    torch.manual_seed(3)
    model = strong(Gated())
    found = KryptonOcclusion(lambda x: (model(x) > 0).float()).heatmap(
        blobs(1), WINDOW, STRIDES, target=1, ssim_target=0.9
    )
    assert found.cheap is None


def test_what_the_budget_does_not_hold_is_left_out(seeing, monkeypatch):
    _, occlusion = seeing

    def too_large(*_):
        raise InputError("memory_budget", "2 MiB", problem="the gradients take 3 MiB")

    monkeypatch.setattr("krypton_engine.planning.planner.cheap_session", too_large)
    found = occlusion.heatmap(blobs(1), WINDOW, STRIDES, target=1, ssim_target=0.9)
    assert found.cheap is None and found.ssim_estimate.low >= 0.85


def test_a_tuning_trims_what_is_linearised():
    torch.manual_seed(3)
    model = strong(Gated())
    occlusion = KryptonOcclusion(model)
    x = torch.cat([blobs(seed) for seed in range(3)])
    tuning = occlusion.tune(x, WINDOW, STRIDES, target=1, confidence=0.5)
    ways = set(tuning.ways)
    assert {Way(), Way(0.0, True), Way(0.6, True)} <= ways and Way(0.6) not in ways
    few, many = ([c.cheap_seconds for c in tuning.of(Way(epsilon, True))] for epsilon in (0.6, 0.0))
    assert min(few) > 0 and min(many) > 0
    assert tuning.goal(0.8).drift


def test_an_activation_with_weights(seeing):
    """Weights in the model's dtype take no other numbers."""
    _, occlusion = seeing
    weights = torch.tensor([[1.0, -2.0, 0.5, 0.0, 3.0]])
    expected, found = (
        occlusion.heatmap(blobs(1), WINDOW, STRIDES, target=0, activation=activation, ssim_target=0.9)
        for activation in (
            lambda outputs: (outputs * weights).sum(1, keepdim=True),
            lambda outputs: nn.functional.linear(outputs, weights),
        )
    )
    assert torch.equal(found.status, expected.status) and found.cheap is not None
    torch.testing.assert_close(found.values, expected.values)


def test_a_plan_says_what_is_linearised(seeing):
    model, occlusion = seeing
    plan = occlusion.plan(blobs(0), WINDOW, STRIDES)
    assert not plan.incremental and plan.linearised.macs < 0.6 * plan.macs
    words = (
        "gates and norms over the image (3)" if isinstance(model, Gated) else "attention over all tokens (3)"
    )
    assert plan.linearised.operators == words and words in " ".join(str(plan).split())
    assert KryptonOcclusion(Wide().eval()).plan(blobs(0), WINDOW, STRIDES).linearised is None


class TalkingHeads(nn.Module):
    """Attention whose heads are mixed before the softmax, as in CaiT."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.heads = nn.Conv2d(3, 8, 4, 4), nn.Linear(2, 2)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).unflatten(1, (2, 4)).transpose(2, 3)
        scores = tokens @ tokens.transpose(2, 3)
        scores = self.heads(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return (scores.softmax(3) @ tokens).mean(2).flatten(1)


def test_a_plan_says_why_nothing_is_linearised():
    plan = KryptonOcclusion(TalkingHeads().eval()).plan(blobs(0), WINDOW, STRIDES)
    assert plan.linearised is None and "does something else to an attention's scores" in plan.not_linearised
    assert f"positions are chosen, each in full: {plan.not_linearised}" in " ".join(str(plan).split())


# --- tuning -------------------------------------------------------------------------------------------


def test_a_tuning_takes_the_cheap_map_that_pays(tmp_path):
    """Of twenty maps whose cheap session is right and ten times quicker."""
    curves = []
    for seed in range(20):
        session, cheap, _, truth, _ = dense(seed)

        def builder(began, session=session, truth=truth):
            return MapBuilder(
                session.window, session.base, lambda o: o[:, 0], fill=np.arange(truth.size), began=began
            )

        made = curves_of(
            str(seed), session, np.arange(truth.size), builder, [Way(), Way(0.0, True), Way(0.3)], 1,
            {Way(0.0, True): 0.125}, linearise=lambda _, cheap=cheap: cheap,
        )  # fmt: skip
        assert [curve.way for curve in made] == [Way(), Way(0.0, True), Way(0.3)]
        curves += [
            replace(c, seconds=10.0, cheap_seconds=1.0 if c.drift else 0.0, look_seconds=0.0) for c in made
        ]
    tuning = Tuning(Fingerprint((28, 28), (4, 4), (1, 1), (0.0,), 1, (0.0,)), tuple(curves))
    choice, rule = tuning.choose(0.9), tuning.goal(0.9)
    assert choice.way == Way(0.0, True) and (rule.drift, rule.cost) == (True, 0.125)
    assert max(stop.computed for stop in choice.stops) < 0.05 * truth.size
    assert min(stop.cheaply for stop in choice.stops) > 0.08 * truth.size
    assert tuning.goal(0.9, trims=False).drift is False
    tuning.save(tmp_path / "tuning.json")
    loaded = Tuning.load(tmp_path / "tuning.json")
    assert loaded == tuning and str(loaded) == str(tuning) and "linear" in str(tuning)
    few = replace(tuning, curves=tuning.curves[:27])
    assert list(few.factors(0.9)) == [Way(0.0, True)], "nine samples do not choose"


def dense(seed):
    """As `tables`, all of whose positions change something of their own."""
    window = SlidingWindow((28, 28), (4, 4), (1, 1))
    generator = np.random.default_rng(seed)
    truth = gaussian_filter(generator.normal(size=window.grid_shape), 2)
    cheap = truth + 0.05 * truth.std() * generator.normal(size=truth.shape)
    differs = np.ones((28, 28), dtype=bool)
    session = Table(window, differs, truth)
    work = distinct_work(session.changed, np.arange(truth.size))
    return session, Table(window, differs, cheap, 0.25), work, truth, cheap
