"""Collections against maps made one by one, and what is refused before work starts."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
import zarr
from PIL import Image
from support.collecting import Stub, arrays, collect
from support.tiny_models import SmallCNN

from krypton_engine import InputError, KryptonOcclusion, fillings
from krypton_engine.collection import Collection, explain, rows
from krypton_engine.collection.audit import clopper_pearson
from krypton_engine.collection.call import OcclusionCall
from krypton_engine.collection.plan import Ledger
from krypton_engine.collection.sources import source_of

WINDOW, STRIDES = (3, 8, 8), (3, 4, 4)


def as_input(image):
    pixels = np.asarray(image.resize((20, 24)), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


@pytest.fixture
def folder(tmp_path):
    """Six pictures in two folders, and one that is none."""
    generator = np.random.default_rng(0)
    for i in range(6):
        path = tmp_path / "pictures" / ("odd" if i % 2 else "even") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    (tmp_path / "pictures/torn.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return tmp_path / "pictures"


@pytest.fixture
def explained(monkeypatch):
    """Ids of the images that have been explained."""
    names, explain = [], OcclusionCall.explained

    def noted(self, prepared, item, exact=False):
        names.append(item.id)
        return explain(self, prepared, item, exact)

    monkeypatch.setattr(OcclusionCall, "explained", noted)
    return names


def plain(heatmap):
    return replace(heatmap, image=None)


def test_nobody_prepares_a_picture_during_an_export(folder, tmp_path, monkeypatch):
    """The next one is prepared by a thread of its own, which PyTorch's export would reach into."""
    running, seen, exported = threading.Event(), [], torch.export.export

    def slow_export(*args, **kwargs):
        running.set()
        time.sleep(0.2)
        try:
            return exported(*args, **kwargs)
        finally:
            running.clear()

    def slowly(image):
        seen.append(running.wait(0.4))
        return as_input(image)

    monkeypatch.setattr(torch.export, "export", slow_export)
    model = SmallCNN()  # which has not been exported
    explain(folder / "even", model, WINDOW, STRIDES, out=tmp_path / "out", target=1, preprocess=slowly)
    assert len(seen) >= 3 and not any(seen)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((WINDOW, STRIDES), {}),
        ((WINDOW, STRIDES, 0.5, 2), {"activation": "softmax", "classes": "all"}),
        ((WINDOW, (3, 2, 2)), {"ssim_target": 0.8}),
        ((WINDOW, STRIDES), {"region": (0, 0, 8, 8)}),
        ((WINDOW, STRIDES, fillings.Noise(2)), {}),
        ((), {"regions": torch.arange(20) // 5}),
    ],
)
def test_maps_are_those_of_a_loop(tmp_path, cnn, images, arguments, options):
    found = explain(
        ((str(i), x) for i, x in enumerate(images)), cnn, *arguments, out=tmp_path / "out", **options
    )
    occlusion = KryptonOcclusion(cnn)
    again = Collection(tmp_path / "out")
    assert list(found) == list(again) == ["0", "1", "2"]
    for i, x in enumerate(images):
        expected = plain(occlusion.heatmap(x[None], *arguments, **options))
        assert found[str(i)] == again[str(i)] == expected
        assert again.row(str(i))["measured"] == pytest.approx(float(expected.measured.double().mean()))


def test_workers_make_the_same_maps(tmp_path, cnn, images, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pairs = {str(i): x for i, x in enumerate(images)}
    found = explain(pairs, cnn, WINDOW, STRIDES, out=tmp_path / "two", workers=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for i, x in enumerate(images):
            assert found[str(i)] == plain(KryptonOcclusion(cnn).heatmap(x[None], WINDOW, STRIDES))
    finally:
        torch.set_num_threads(threads)
    assert not list((tmp_path / "two").glob(".*"))


def test_inputs_of_two_sizes_have_an_array_each(tmp_path, images):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    pairs = {"small": images[0, :, :16], "large": images[1], "double": images[2].double()}
    found = explain(pairs, model, WINDOW, STRIDES, out=tmp_path / "out")
    for name, x in pairs.items():
        assert found[name] == plain(KryptonOcclusion(model).heatmap(x.float()[None], WINDOW, STRIDES))
    array = zarr.open_array(tmp_path / "out/maps/5x4/values", mode="r")
    assert array.metadata.zarr_format == 3 and array.shards is not None
    assert torch.equal(torch.from_numpy(np.asarray(array[1])), found["large"].values)


def test_a_folder_its_failures_and_a_second_try(tmp_path, folder, cnn, explained):
    def once(**options):
        explained.clear()
        return explain(folder, cnn, WINDOW, STRIDES, out=tmp_path / "out", preprocess=as_input, **options)

    found = once()
    assert list(found) == ["even/0.png", "even/2.png", "even/4.png", "odd/1.png", "odd/3.png", "odd/5.png"]
    expected = KryptonOcclusion(cnn).heatmap(
        as_input(Image.open(folder / "odd/3.png"))[None], WINDOW, STRIDES
    )
    assert found["odd/3.png"] == plain(expected)
    assert list(found.failures) == ["torn.png"] and "cannot be read" in found.failures["torn.png"]
    once()
    assert explained == []
    Image.new("RGB", (30, 40)).save(folder / "torn.png")  # changed: so it is read again
    assert not once().failures and explained == ["torn.png"]
    Image.new("RGB", (30, 40), "red").save(folder / "even/2.png")
    os.utime(folder / "even/0.png", (1, 1))  # changed in no byte
    before = found["even/2.png"]
    assert once()["even/2.png"] != before and explained == ["even/2.png"]
    Image.new("RGB", (30, 40), "blue").save(folder / "added.png")
    assert list(once())[-1] == "added.png" and explained == ["added.png"]  # no row has moved


def test_failures_are_tried_again_when_asked(tmp_path):
    images = {**arrays(3), "bad": -np.ones((1, 8, 8), np.float32)}
    log = tmp_path / "log"
    assert "a negative image" in collect(images, tmp_path / "out").failures["bad"]

    class Mended(Stub):
        def explained(self, prepared, item, exact=False):
            return super().explained(prepared.abs(), item, exact)

    collect(images, tmp_path / "out", Mended(log=str(log)))
    assert not log.exists()
    assert len(collect(images, tmp_path / "out", Mended(log=str(log)), retry=True)) == 4
    assert log.read_text() == "bad\n"


def test_a_changed_model_makes_all_maps_anew(tmp_path, images, explained):
    model = SmallCNN()
    pairs = {str(i): x for i, x in enumerate(images)}
    explain(pairs, model, WINDOW, STRIDES, out=tmp_path / "out")
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    found = explain(pairs, model, WINDOW, STRIDES, out=tmp_path / "out")
    assert explained == ["0", "1", "2"] * 2
    assert found["1"] == plain(KryptonOcclusion(model).heatmap(images[1:2], WINDOW, STRIDES))


def test_a_manifest_says_target_region_and_group(tmp_path, folder, cnn):
    table = pa.table({
        "path": ["even/0.png", "odd/1.png", str(folder / "odd/3.png")],
        "id": ["a", "b", None], "target": [2, None, 0], "region": [None, "0 0 8 8", None],
        "group": ["left", "left", "right"], "score": [0.1, 0.2, 0.3],
    })  # fmt: skip
    pyarrow.parquet.write_table(table, folder / "list.parquet")
    pyarrow.csv.write_csv(table, folder / "list.csv")
    assert source_of(folder / "list.csv").items == source_of(folder / "list.parquet").items
    found = explain(folder / "list.csv", cnn, WINDOW, STRIDES, out=tmp_path / "out", preprocess=as_input)
    x = as_input(Image.open(folder / "odd/1.png"))[None]
    occlusion = KryptonOcclusion(cnn)
    assert found["b"] == plain(occlusion.heatmap(x, WINDOW, STRIDES, region=(0, 0, 8, 8)))
    assert found["a"].target == 2 and found[str(folder / "odd/3.png")].target == 0
    left, right = found.means("group")
    assert (left.label, left.count, right.label, right.count) == ("left", 2, "right", 1)
    both = torch.stack([found["a"].drop, found["b"].drop]).double()
    assert torch.allclose(left.drop, both.nanmean(0), equal_nan=True)
    assert [mean.label for mean in found.means("class")] == sorted(
        {found.row(name)["class"] for name in found}
    )


def refused(match, *arguments, **options):
    with pytest.raises(InputError, match=match):
        explain(*arguments, **options)


def test_bad_input_is_one_message_before_work(tmp_path, folder, cnn, images, monkeypatch, explained):
    pairs = {str(i): x for i, x in enumerate(images)}
    arguments = (cnn, WINDOW, STRIDES)
    out = tmp_path / "new"
    refused("a folder, a manifest", tmp_path / "missing", *arguments, out=out)
    refused("a folder, a manifest", 3, *arguments, out=out)
    (tmp_path / "empty").mkdir()
    refused("a folder without pictures", tmp_path / "empty", *arguments, out=out)
    refused("preprocess is None", folder, *arguments, out=out)
    refused("has twice", [("a", images[0]), ("a", images[1])], *arguments, out=out)
    refused("pairs of an id, a text", [("a", "word")], *arguments, out=out)
    (tmp_path / "list.csv").write_text("file,group\na.png,x\n")
    refused("columns are file, group", tmp_path / "list.csv", *arguments, out=out)
    (tmp_path / "list.csv").write_text("path,id\na.png,x\nb.png,x\n")
    refused("x; accepted: ids that are there once", tmp_path / "list.csv", *arguments, out=out)
    (tmp_path / "list.csv").write_text("path,region\na.png,1 2 3\n")
    refused("region '1 2 3' in row 1", tmp_path / "list.csv", *arguments, out=out)
    (tmp_path / "list.parquet").write_bytes(b"PAR1 and nothing more")
    refused("cannot be read as a manifest", tmp_path / "list.parquet", *arguments, out=out)
    refused("sliding_window_shapes is", pairs, cnn, (3, 80, 8), STRIDES, out=out)
    refused("target is 7", pairs, cnn, WINDOW, STRIDES, target=7, out=out)
    refused("workers is 0", pairs, *arguments, out=out, workers=0)
    refused("audit is 0.5", pairs, *arguments, out=out, audit=0.5)
    refused("tune is 3", pairs, *arguments, out=out, tune=3)
    refused("which is a file", pairs, *arguments, out=tmp_path / "list.csv")
    refused("which holds something else", pairs, *arguments, out=folder)
    refused("does not exist", pairs, *arguments, out=tmp_path / "missing" / "out")
    assert not out.exists() and not explained
    explain(pairs, *arguments, out=out)
    refused("different are strides", pairs, cnn, WINDOW, (3, 2, 2), out=out)
    refused(r"baselines \(None there, 0.5 here\)", pairs, *arguments, 0.5, out=out)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        refused("which cannot be written", pairs, *arguments, out=out)
    asked = json.loads((out / "collection.json").read_text())
    (out / "collection.json").write_text(json.dumps({**asked, "format": 99, "krypton": "7.0"}))
    refused("made by krypton 7.0, which is newer", pairs, *arguments, out=out)
    with pytest.raises(InputError, match="holds no collection"):
        Collection(tmp_path)


def test_no_row_moves_and_no_two_are_one(tmp_path):
    call, images = Stub(), list(arrays(12).items())
    known = [{"row": row, "id": images[row][0], "status": "pending"} for row in (0, 1, 2, 6)]
    ledger = Ledger(rows.table_of(known), call, retry=False)
    shuffled = [images[i] for i in (7, 0, 1, 6, 8, 2, 9, 10, 11, 3)]
    tasks = {task.item.id: task.row for task in ledger.tasks(source_of(shuffled).items)}
    assert [tasks[f"image {i}"] for i in (0, 1, 2, 6)] == [0, 1, 2, 6]
    assert len(set(tasks.values())) == len(tasks) == 10
    fresh = Ledger(rows.table_of([]), call, retry=False).tasks(source_of(shuffled).items)
    assert [task.row for task in fresh] == list(range(10))


def test_an_id_that_comes_twice_in_a_stream(tmp_path):
    with pytest.raises(InputError, match="image 0"):
        collect(iter([*arrays(3).items(), *arrays(2).items()]), tmp_path / "out")
    assert len(Collection(tmp_path / "out")) >= 2


def test_one_tuning_serves_all_and_is_audited(tmp_path, explained):
    torch.manual_seed(0)
    model = SmallCNN()
    pairs = {str(i): torch.rand(3, 24, 20) for i in range(16)}
    options = {"ssim_target": 0.8, "tune": 9, "audit": 0.5, "out": tmp_path / "out"}
    found = explain(pairs, model, WINDOW, (3, 2, 2), **options)
    occlusion = KryptonOcclusion(model)
    audit = found.audit
    assert len(audit.ssims) == 8 and len(explained) == 24
    for name, ssim in audit.ssims.items():
        exact = plain(occlusion.heatmap(pairs[name][None], WINDOW, (3, 2, 2)))
        assert ssim == found[name].compare(exact).ssim
    assert audit.kept == sum(ssim >= 0.8 for ssim in audit.ssims.values())
    assert explain(pairs, model, WINDOW, (3, 2, 2), **options).audit == audit and len(explained) == 24
    refused("different are tune", pairs, model, WINDOW, (3, 2, 2), **{**options, "tune": 10})
    broken = replace(audit, ssims={str(i): 0.5 for i in range(9)})
    assert broken.is_broken and not replace(audit, ssims={"a": 0.5}).is_broken


def test_an_exact_map_that_fails_is_told_and_tried_again(tmp_path, cnn, images, monkeypatch):
    explain_one = OcclusionCall.explained

    def failing(self, prepared, item, exact=False):
        if exact and item.id == "0":
            raise MemoryError("no room")
        return explain_one(self, prepared, item, exact)

    pairs = {str(i): x for i, x in enumerate(images)}
    options = {"ssim_target": 0.8, "audit": 1.0, "out": tmp_path / "out"}
    with monkeypatch.context() as patch:
        patch.setattr(OcclusionCall, "explained", failing)
        audit = explain(pairs, cnn, WINDOW, STRIDES, **options).audit
    assert audit.failures == {"0": "MemoryError: no room"} and set(audit.ssims) == {"1", "2"}
    assert str(audit).endswith("; 1 exact map failed")
    audit = explain(pairs, cnn, WINDOW, STRIDES, **options).audit
    assert not audit.failures and set(audit.ssims) == {"0", "1", "2"}


@pytest.mark.parametrize(("kept", "count"), [(0, 5), (5, 5), (17, 20)])
def test_the_interval_is_that_of_the_binomial(kept, count):
    from scipy.stats import binomtest

    exact = binomtest(kept, count).proportion_ci(method="exact")
    assert clopper_pearson(kept, count) == pytest.approx((exact.low, exact.high))


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    import time

    from krypton_engine.collection import layout
    from krypton_engine.collection.store import Store
    from krypton_engine.collection.work import _described

    count, generator = 10**6, np.random.default_rng(0)
    name = "image 0"
    arrays_of, record = _described(Stub().explained(torch.rand(1, 8, 8), source_of(arrays(1)).items[0]))
    record |= {"status": "done", "seconds": 0.1}
    with Store(tmp_path / "out", {"call": {}}) as store:
        for block in range(0, count, layout.BLOCK):
            numbers = range(block, min(block + layout.BLOCK, count))
            values = generator.random((len(numbers), 4, 4), dtype=np.float32)
            maps = {row: ("4x4", {**arrays_of, "values": values[i]}) for i, row in enumerate(numbers)}
            store._maps.write(block // layout.BLOCK, maps, numbers)
            records = ({**record, "row": row, "id": f"image {row}", "hash": f"{row:016x}"} for row in numbers)
            rows.write(tmp_path / f"out/parts/{block // layout.BLOCK:06}.parquet", rows.table_of(records))
        store.finish()
    began = time.perf_counter()
    found = Collection(tmp_path / "out")
    assert len(found) == count
    opened = time.perf_counter() - began
    times = []
    for row in generator.integers(0, count, 50):
        began = time.perf_counter()
        name = f"image {row}"
        assert found[name].values.shape == (4, 4)
        times.append(time.perf_counter() - began)
    print(f"opened in {opened:.2f} s, a map in {np.median(times) * 1e3:.1f} ms (most {max(times) * 1e3:.1f})")
    assert opened < 2 and np.median(times) < 0.05


def test_a_sheet_of_maps_and_failures(tmp_path, folder, cnn):
    found = explain(folder, cnn, WINDOW, STRIDES, out=tmp_path / "out", preprocess=as_input)
    found.contact_sheet(tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("<figure") == page.count("data:image/jpeg") == 6
    assert "torn.png" in page and "http" not in page
    found.contact_sheet(tmp_path / "sheet.png", most=2)
    assert Image.open(tmp_path / "sheet.png").info["Software"] == "Krypton"
    assert list(found.to_pandas()["status"]) == ["done"] * 6 + ["failed"]
    assert Path(tmp_path / "out/collection.json").exists()
