"""Regions of any shape, and walks over them, on random small CNNs: against loops over copies, in float64."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.random_cnns import by_rank, drawn
from support.tiny_models import SmallCNN
from torch import Tensor, nn

from krypton_engine import FallbackWarning, KryptonFeatureAblation
from krypton_engine.attr.features import regions_of
from krypton_engine.executors.base import Opening, Session
from krypton_engine.executors.full import FullSession
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import replaced
from krypton_engine.planning.cache import Source, capture
from krypton_engine.planning.planner import Preparer
from krypton_engine.run.walks import walked

TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-5}
"""Of the largest output."""

common = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True, scope="module")
def small_networks():
    """The planner would run networks that small in full, and two threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)
        yield
    torch.set_num_threads(threads)


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    """Masks of one to six regions: scattered, or boxes of rows, or alike in some axes."""

    def mask(seed: int, count: int, alike: int, blocks: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        sizes = [1 if alike >> axis & 1 else size for axis, size in enumerate(shape)]
        numbers = torch.randint(0, count, [-(-size // blocks) for size in sizes], generator=generator)
        for axis, size in enumerate(sizes):
            numbers = numbers.repeat_interleave(blocks, axis).narrow(axis, 0, size)
        return numbers[None]

    return st.builds(
        mask, st.integers(0, 999), st.integers(1, 6), st.integers(0, 2 ** len(shape) - 1), st.integers(1, 4)
    )


def covered(x: Tensor, mask: Tensor, number: int, baseline: Tensor) -> Tensor:
    return torch.where(mask == number, baseline, x)


def opened(model: torch.nn.Module, x: Tensor, baseline: Tensor, regions: Regions, executor: str) -> Session:
    """A session over regions."""
    graph = capture(Source(model, (x,)))
    ready = Preparer(executor, None).plan(graph, regions, x.device)
    return ready.open(Opening((x,), baseline, memory_budget=2**30))


@by_rank
def test_random_networks(rank: int, count: int) -> None:
    @settings(common, max_examples=count, derandomize=True)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        model, generator, x, baseline = drawn(data, rank)
        mask = data.draw(masks(tuple(x.shape[1:])), "mask")
        numbers = mask.unique().tolist()
        orders = np.stack([torch.randperm(len(numbers), generator=generator).numpy() for _ in range(2)])
        with torch.no_grad():
            right = torch.cat([model(covered(x, mask, number, baseline)) for number in numbers])
            base, on_the_way = model(x), []
            for order in orders:
                now = x
                for place in order:
                    now = covered(now, mask, numbers[place], baseline)
                    on_the_way.append(model(now))
        scale = max(1.0, float(right.abs().max()), float(torch.cat(on_the_way).abs().max()))
        (regions,) = regions_of((mask,), (x,))
        single = copy.deepcopy(model).float()
        for made, dtype, executor in ((model, torch.float64, "reference"), (single, torch.float32, "auto")):
            with warnings.catch_warnings():
                warnings.simplefilter("error", FallbackWarning)
                values = KryptonFeatureAblation(made, executor).attribute(
                    x.to(dtype), baseline.to(dtype), target=None, feature_mask=mask
                )
            flat = (base - right).flatten(1)
            for number, expected in zip(numbers, flat, strict=True):
                cells = (mask == number).expand(x.shape)[0]
                found = values[:, cells]
                error = float((found.double() - expected[:, None]).abs().max())
                assert error <= TOLERANCE[dtype] * scale, f"region {number}: {error:.3g} of {scale:.3g}"
            with torch.no_grad():
                session = opened(made, x.to(dtype), baseline.to(dtype), regions, executor)
                found = torch.stack(list(walked(session, x.to(dtype), orders)), 1).flatten(0, 1)
            error = float((found.double() - torch.cat(on_the_way)).abs().max())
            assert error <= TOLERANCE[dtype] * scale, f"walks: {error:.3g} of {scale:.3g}"

    run()


def test_a_thousand_steps_do_not_drift() -> None:
    """A walk to and fro: what rounding leaves behind stays rounding."""

    torch.manual_seed(3)
    model, x = SmallCNN(), torch.rand(1, 3, 24, 20)
    mask = torch.randint(0, 5, (1, 1, 24, 20))
    (regions,) = regions_of((mask,), (x,))
    exact = copy.deepcopy(model).double()
    for executor in ("reference", "native"):
        with torch.no_grad():
            session = opened(model, x, torch.zeros(1), regions, executor)
            walks, now = session.walks([None]), x
            for step in range(1000):
                box = regions.boxes(np.array([step % 5]))
                inside = (slice(None), *(slice(lo, hi) for lo, hi in box[0]))
                content = torch.rand(now[inside].shape)
                now = now.clone()
                now[inside] = content
                outputs = walks.advance(np.array([0]), box, lambda _, content=content: content)
            truth = exact(now.double())
            ours, theirs = (float((each - truth).abs().max()) for each in (outputs, model(now)))
        rounding = torch.finfo(torch.float32).eps * float(truth.abs().max())
        assert ours <= 3 * max(theirs, 8 * rounding), (executor, ours, theirs)


def test_branches_and_looks() -> None:
    """Looks say what advances say and leave walks where they stand; branches go their own ways."""
    torch.manual_seed(4)
    model, x = SmallCNN(), torch.rand(1, 3, 24, 20)
    (regions,) = regions_of((torch.randint(0, 5, (1, 1, 24, 20)),), (x,))
    exact = copy.deepcopy(model).double()

    def truth(inputs: list[Tensor]) -> Tensor:
        return exact(torch.cat(inputs).double())

    full = FullSession(model, (x,), 0, regions, torch.zeros(1), None, model(x).detach(), 2)
    sessions = [opened(model, x, torch.zeros(1), regions, name) for name in ("reference", "native")]
    for session in (*sessions, full):
        generator = np.random.default_rng(5)
        with torch.no_grad():
            walks, now = session.walks([None, 2 * x]), [x, 2 * x]
            for _ in range(60):
                source, into = (int(each) for each in generator.integers(len(now), size=2))
                if len(now) < 5:
                    assert walks.branch(source) == len(now)
                    now.append(now[source])
                else:
                    assert walks.branch(source, into) == into
                    now[into] = now[source]
                settles = bool(generator.integers(2))
                which = (
                    generator.permutation(len(now))[:3] if settles else generator.integers(len(now), size=6)
                )
                # Boxes of any size, larger ones than any region's among them.
                ends = np.sort([generator.integers(size, size=(len(which), 2)) for size in (24, 20)], axis=2)
                ends[..., 1] += 1
                boxes = np.stack([np.tile([0, 3], (len(which), 1)), *ends], axis=1)
                contents = [torch.rand(1, *(box[:, 1] - box[:, 0])) for box in boxes]
                after = [replaced(now[w], *change) for w, *change in zip(which, boxes, contents, strict=True)]
                step = walks.advance if settles else walks.look
                found = step(which, boxes, contents.__getitem__)
                right = truth(after)
                assert float((found - right).abs().max()) <= 3e-5 * float(right.abs().max())
                for walk, changed in zip(which, after, strict=True) if settles else ():
                    now[walk] = changed


def test_walks_that_the_engine_hands_over() -> None:
    """Looks and branches go on where a number is not finite, each from where its walk stands."""
    torch.manual_seed(6)
    layers = (nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    model, x = nn.Sequential(*layers).eval(), torch.rand(1, 1, 12, 12)
    (regions,) = regions_of((torch.arange(12)[None, None, None] // 4,), (x,))
    left, right = np.array([[[0, 1], [0, 12], [0, 4]]]), np.array([[[0, 1], [0, 12], [8, 12]]])
    zeros, infinite = torch.zeros(1, 1, 12, 4), torch.full((1, 1, 12, 4), torch.inf)
    with torch.no_grad():
        walks = opened(model, x, torch.zeros(1), regions, "native").walks([None])
        other = walks.branch(0)
        walks.advance(np.array([other]), left, lambda _: zeros)
        lost = walks.look(np.array([0, other]), np.concatenate([right, right]), [infinite, zeros].__getitem__)
        assert not lost[0].isfinite().any()
        covered = x.clone()
        covered[..., :4] = covered[..., 8:] = 0.0
        torch.testing.assert_close(lost[1:], model(covered))
        third = walks.branch(other)
        torch.testing.assert_close(walks.advance(np.array([third]), right, lambda _: zeros), model(covered))
        covered[..., 8:] = x[..., 8:]
        again = walks.look(np.array([other]), left, lambda _: zeros)
        torch.testing.assert_close(again, model(covered))
