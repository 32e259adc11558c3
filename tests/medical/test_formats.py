"""Other ways in and out: NIfTI, TIFF, arrays, pictures; refusals; privacy; lightness."""

import contextlib
import gzip
import subprocess
import sys

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image
from support import scans

from krypton_engine import Heatmap, InputError, KryptonOcclusion
from krypton_engine.medical import Geometry, Scan, read_scan

AFFINE = np.array([[0, 0, 0.8, -9], [0, 0.5, 0, 4], [3.0, 0.0, 0, 7], [0, 0, 0, 1.0]])


def nifti(path, cells, affine=AFFINE, header=None):
    nibabel.save(nibabel.Nifti1Image(cells, affine, header), path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_nifti_of_any_type_is_what_itk_reads(tmp_path, dtype):
    path = nifti(tmp_path / "a scan.nii.gz", (scans.volume((4, 5, 6)) // 20).astype(dtype))
    scan, theirs = read_scan(path), sitk.ReadImage(str(path))
    assert np.array_equal(scan.tensor[0].numpy(), sitk.GetArrayFromImage(theirs))
    place = np.array(theirs.TransformIndexToPhysicalPoint((1, 2, 3))) * [-1, -1, 1]
    assert np.abs(scan.geometry.world((3, 2, 1)) - place).max() < 1e-4


def test_big_endian_nifti_with_a_slope(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(np.linspace(-1, 1, 24).reshape(2, 3, 4), AFFINE, header)
    nibabel.save(image, tmp_path / "scan.nii")
    assert nibabel.load(tmp_path / "scan.nii").header.endianness == ">"
    found = read_scan(tmp_path / "scan.nii").tensor[0].numpy()
    assert np.allclose(found.T, np.linspace(-1, 1, 24).reshape(2, 3, 4), atol=1e-4)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_units_of_nifti(tmp_path, unit, factor):
    header = nibabel.Nifti1Header()
    header.set_xyzt_units(unit)
    scan = read_scan(nifti(tmp_path / "scan.nii", np.zeros((2, 3, 4)), header=header))
    assert np.allclose(scan.geometry.arranged("WHD").affine[:3], AFFINE[:3] * factor)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((4, 5), (1, 1, 5, 4)),
        ((4, 5, 6), (1, 6, 5, 4)),
        ((4, 5, 6, 2), (2, 6, 5, 4)),
        ((4, 5, 6, 1, 3), (3, 6, 5, 4)),
    ],
)
def test_axes_of_nifti(tmp_path, shape, found):
    assert read_scan(nifti(tmp_path / "scan.nii", np.zeros(shape))).tensor.shape == found


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.tif", "scan.npy", "scan.png", "scan"])
@pytest.mark.parametrize(
    "content",
    [b"", b"nothing of the kind", bytes(400), gzip.compress(b"words")],
    ids=["empty", "words", "zeros", "zipped"],  # gzip writes the time, which is no name of a test
)
def test_files_of_another_kind(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="source is") as caught:
        read_scan(tmp_path / name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.tif", "scan.npy", "scan.png"])
def test_files_cut_short(tmp_path, name):
    cells = np.random.default_rng(0).integers(0, 4096, (40, 50)).astype(np.uint16)
    path = tmp_path / name
    if name.endswith("tif"):
        tifffile.imwrite(path, cells)
    elif name.endswith("npy"):
        np.save(path, cells)
    elif name.endswith("png"):
        Image.fromarray(cells).save(path)
    else:
        nifti(path, cells)
    whole = path.read_bytes()
    assert read_scan(path).tensor.numel() == 2000
    for length in (10, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="source is"):
            read_scan(path)


@pytest.mark.parametrize("name", ["scan.nii", "scan.tif", "scan.npy", "scan.dcm"])
def test_damaged_files_are_read_or_refused(tmp_path, name):
    path, cells, rng = tmp_path / name, scans.volume((1, 12, 10)), np.random.default_rng(0)
    if name.endswith("tif"):
        tifffile.imwrite(path, cells, ome=True, metadata={"axes": "ZYX", "PhysicalSizeZ": 2.0})
    elif name.endswith("npy"):
        np.save(path, cells)
    elif name.endswith("dcm"):
        scans.series(AFFINE, cells)[0].save_as(path, enforce_file_format=True)
    else:
        nifti(path, cells)
    whole = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(min(len(whole), 1800), size=rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_scan(path).bytes()


@pytest.mark.parametrize("cells", [np.zeros((2, 3, 4), np.complex64), np.zeros((2, 3, 4, 2, 2))])
def test_nifti_without_a_volume(tmp_path, cells):
    with pytest.raises(InputError, match="accepted: a volume of real numbers"):
        read_scan(nifti(tmp_path / "scan.nii", cells))


def test_nifti_of_no_size(tmp_path):
    with pytest.raises(InputError, match=r"scan\.nii', whose affine is .*accepted: an invertible"):
        image = nibabel.Nifti1Image(np.zeros((2, 3, 4)), np.eye(4))
        image.header["sform_code"], image.header["srow_x"], image.header["qform_code"] = 1, [0, 0, 0, 0], 0
        nibabel.save(image, tmp_path / "scan.nii")
        raw = bytearray((tmp_path / "scan.nii").read_bytes())
        raw[280:296] = bytes(16)  # srow_x
        (tmp_path / "scan.nii").write_bytes(raw)
        read_scan(tmp_path / "scan.nii")


OME = {"axes": "ZYX", "PhysicalSizeZ": 500.0, "PhysicalSizeX": 250.0}  # micrometres
IMAGEJ = {"axes": "ZYX", "spacing": 2.0, "unit": "mm"}


@pytest.mark.parametrize(
    ("arguments", "shape", "spacing"),
    [
        ({"ome": True, "metadata": OME}, (1, 5, 6, 7), (0.5, 1, 0.25)),
        ({"ome": True, "metadata": {"axes": "CYX"}}, (5, 6, 7), (1, 1, 1)),
        ({"imagej": True, "metadata": IMAGEJ, "resolution": (4, 2)}, (1, 5, 6, 7), (2, 0.5, 0.25)),
        ({"photometric": "minisblack", "resolution": (300, 300)}, (1, 5, 6, 7), (1, 1, 1)),
    ],
)
def test_stacks(tmp_path, arguments, shape, spacing):
    cells = scans.volume((5, 6, 7)) * 16
    tifffile.imwrite(tmp_path / "stack.tif", cells, **arguments)
    scan = read_scan(tmp_path / "stack.tif")
    assert scan.tensor.shape == shape and np.array_equal(scan.tensor.numpy().reshape(5, 6, 7), cells)
    assert scan.geometry.spacing == pytest.approx(spacing)


def test_films_are_no_stacks(tmp_path):
    tifffile.imwrite(
        tmp_path / "film.ome.tif", np.zeros((4, 5, 6, 7), np.uint8), ome=True, metadata={"axes": "TZYX"}
    )
    with pytest.raises(InputError, match="with axes TZYX"):
        read_scan(tmp_path / "film.ome.tif")


def test_pictures_keep_their_numbers(tmp_path):
    cells = np.array([[0, 255, 256], [4000, 40000, 65535]], np.uint16)
    Image.fromarray(cells).save(tmp_path / "a picture.png")
    scan = read_scan(tmp_path / "a picture.png")
    assert np.array_equal(scan.tensor[0].numpy(), cells) and scan.bytes()[0].tolist() == [
        [0, 1, 1],
        [16, 156, 255],
    ]
    colours = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    found = read_scan(tmp_path / "colours.png")
    assert np.array_equal(found.bytes(), colours.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_arrays(kind):
    cells = scans.volume((4, 5, 6)).astype(np.int32)
    scan = read_scan(kind(cells), affine=np.diag([3, 1, 0.5, 1]))
    assert np.array_equal(scan.tensor[0].numpy(), cells) and scan.geometry.spacing == (3, 1, 0.5)
    assert read_scan(kind(cells[0])).tensor.shape == (1, 5, 6)
    assert read_scan(scan) is scan


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros(3), "an array of shape"),
        (np.zeros((0, 3, 4)), "an array of shape"),
        (np.array([["a"]]), "an array of shape"),
        (None, "source is NoneType"),
        ([], "source is list"),
        ("", "source is str"),
        ("missing.nii", "which does not exist"),
        (["missing.dcm"], "cannot be read"),
    ],
)
def test_no_scans(source, words):
    with pytest.raises(InputError, match=words):
        read_scan(source)


@pytest.mark.parametrize(
    "affine", [np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan), "affine", np.ones((4, 4))]
)
def test_affines_that_are_none(affine):
    with pytest.raises(InputError, match="accepted: an invertible 4 x 4 affine"):
        read_scan(np.zeros((2, 3, 4)), affine=affine)


def test_an_affine_is_not_for_what_has_its_own(tmp_path):
    with pytest.raises(InputError, match="affine is given; accepted: none"):
        read_scan(nifti(tmp_path / "scan.nii", np.zeros((2, 3, 4))), affine=np.eye(4))


def test_orders_are_each_others_mirror():
    scan = Scan.of(scans.volume((1, 4, 5, 6)), Geometry(AFFINE, (4, 5, 6)), levels=(0.0, 1.0))
    other = scan.arranged("WHD")
    assert other.tensor.shape == (1, 6, 5, 4) and other.arranged("DHW") == scan and other != scan
    assert np.allclose(other.geometry.world((3, 2, 1)), scan.geometry.world((1, 2, 3)))
    assert other.window_mm((8, 5, 30)) == (1, *reversed(scan.window_mm((30, 5, 8))[1:]))
    picture = Scan.of(scans.volume((1, 5, 6)), Geometry(AFFINE, (1, 5, 6))).arranged("WHD")
    assert picture.tensor.shape == (1, 6, 5) and picture.window_mm(1.6) == (1, 2, 3)


@pytest.mark.parametrize("size", [0, -1, (1, 2), "16", None, float("nan"), float("inf")])
def test_windows_of_no_size(size):
    with pytest.raises(InputError, match="size is"):
        Scan.of(np.zeros((1, 4, 5, 6)), Geometry(AFFINE, (4, 5, 6))).window_mm(size)


def test_from_a_series_to_a_map_in_the_viewer(tmp_path):
    """The whole way, with a network in three dimensions."""
    paths = scans.write(tmp_path / "series", scans.series(AFFINE, scans.volume((8, 12, 10))))
    scan = read_scan(tmp_path / "series")
    model = torch.nn.Sequential(
        torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1920, 2)
    ).eval()
    heatmap = KryptonOcclusion(model).heatmap(
        scan.tensor[None] / 1000, scan.window_mm((6, 2, 3.2)), scan.window_mm((3, 1, 1.6)), baselines=-1
    )
    assert heatmap.window.shape == (1, 2, 4, 4) and heatmap.window.strides == (1, 1, 2, 2)
    heatmap.save(tmp_path / "map.dcm", source=scan)
    assert np.array_equal(read_scan(tmp_path / "map.dcm").tensor[0].numpy(), scans.spread(heatmap))
    assert {str(p) for p in tmp_path.iterdir()} == {str(tmp_path / name) for name in ("series", "map.dcm")}
    assert len(paths) == 8


HEATMAP = scans.heatmap((1, 4, 5, 6), (1, 2, 2, 2), (1, 2, 2, 2))


@pytest.mark.parametrize("name", ["map.dcm", "map.sc.dcm"])
@pytest.mark.parametrize("source", [None, np.zeros((4, 5, 6))])
def test_dicom_needs_its_source(tmp_path, name, source):
    heatmap = HEATMAP if name == "map.dcm" else scans.heatmap((1, 5, 6), (1, 2, 2), (1, 2, 2))
    if source is not None and name == "map.sc.dcm":
        source = source[0]
    drawing = {"image": np.zeros((5, 6), np.uint8)} if name == "map.sc.dcm" else {}
    with pytest.raises(InputError, match="source is no DICOM series; accepted: for DICOM, a scan read from"):
        heatmap.save(tmp_path / name, source=source, **drawing)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit(tmp_path):
    with pytest.raises(
        InputError, match="source has 4 x 5 x 7 cells; accepted: as many as the map's input, 4 x 5 x 6"
    ):
        HEATMAP.save(tmp_path / "map.nii", source=np.zeros((4, 5, 7)))
    with pytest.raises(InputError, match="grid is 'mine'; accepted: 'source' or 'own'"):
        HEATMAP.save(tmp_path / "map.nii", grid="mine")
    with pytest.raises(InputError, match=r"names that end in .*\.nii\.gz"):
        HEATMAP.save(tmp_path / "map.mha")
    with pytest.raises(InputError, match="the input has shape"):
        scans.heatmap((8,), (2,), (2,)).save(tmp_path / "map.nii")
    several = Heatmap(
        torch.zeros(2, 2, 3, 2), torch.zeros(2), torch.ones(2, 2, 3, dtype=torch.bool), HEATMAP.window
    )
    with pytest.raises(InputError, match="target selects values of shape"):
        several.save(tmp_path / "map.nii")
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.2
    scan = read_scan(scans.write(tmp_path / "s", scans.series(AFFINE, scans.volume((4, 5, 6)))))
    bent = Scan(scan.tensor, Geometry(sheared, (4, 5, 6), "DHW", scan.geometry.series))
    with pytest.raises(InputError, match="not perpendicular"):
        HEATMAP.save(tmp_path / "map.dcm", source=bent)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_regions(tmp_path):
    from krypton_engine.perturbation.regions import Regions

    mask = torch.from_numpy(scans.volume((4, 5, 6)).astype(np.int64) % 3)
    regions = Regions.of(mask, (1, 4, 5, 6))
    values = torch.tensor([0.25, 0.5, 2.0])
    heatmap = Heatmap(values, torch.tensor(1.0), torch.ones(3, dtype=torch.bool), regions)
    heatmap.save(tmp_path / "map.nii")
    assert np.array_equal(nibabel.load(tmp_path / "map.nii").get_fdata().T, (1 - values)[mask].numpy())
    with pytest.raises(InputError, match="grid is 'own'"):
        heatmap.save(tmp_path / "map.nii", grid="own")


def texts(dataset):
    """Every text in a header, whatever it is nested in."""
    return {str(element.value) for element in dataset.iterall() if element.VR not in ("OW", "OF", "SQ")}


@pytest.mark.parametrize("name", ["map.dcm", "map.sc.dcm", "map.nii.gz", "map.ome.tiff"])
def test_nothing_of_the_patient_is_copied_but_what_must_be(tmp_path, name, capsys):
    path, *_ = scans.write(tmp_path / "s", scans.series(AFFINE, scans.volume((1, 12, 10))))
    scan, heatmap = read_scan(path), scans.heatmap((1, 12, 10), (1, 4, 4), (1, 2, 2))
    drawing = {"image": scan.bytes()[0]} if name == "map.sc.dcm" else {}
    heatmap.save(tmp_path / name, source=scan, **drawing)
    if name.endswith(".dcm"):
        found = pydicom.dcmread(tmp_path / name)
        assert not texts(found) & set(scans.SECRETS.values())
        assert all(str(found[keyword].value) == value for keyword, value in scans.IDENTITY.items())
        assert "not for medical use" in found.SeriesDescription
    else:
        raw = (tmp_path / name).read_bytes()
        raw = gzip.decompress(raw) if name.endswith("gz") else raw
        for value in {**scans.SECRETS, **scans.IDENTITY}.values():
            assert len(value) < 4 or value.encode() not in raw
        assert b"not for medical use" in raw
    told = repr(scan) + repr(scan.geometry) + repr(heatmap) + "".join(capsys.readouterr())
    assert not any(value in told for value in {**scans.SECRETS, **scans.IDENTITY}.values() if len(value) > 3)


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"], None])
def test_headers_that_are_hard_to_carry_on(tmp_path, charset, capsys, caplog, recwarn):
    name = {"ISO_IR 100": "Müller Jürgen", "ISO_IR 192": "Ångström^Ö"}.get(
        str(charset), "Yamada Tarou=山田 太郎"
    )
    name = "Doe Jane" if charset is None else name
    image = scans.series(AFFINE, scans.volume((1, 12, 10)))[0]
    image.SpecificCharacterSet, image.PatientName, image.PatientSex = charset, name, "U"
    image.PatientBirthDate, image.StudyDate, image.StudyTime, image.StudyID = "00000000", "2020", "", None
    path, *_ = scans.write(tmp_path / "s", [image])
    heatmap = scans.heatmap((1, 12, 10), (1, 4, 4), (1, 2, 2))
    recwarn.clear()
    caplog.clear()
    for ending in ("map.dcm", "map.sc.dcm"):
        heatmap.save(
            tmp_path / ending, source=path, **({"image": np.zeros((12, 10))} if "sc" in ending else {})
        )
    assert not any(capsys.readouterr()) and not caplog.text and not recwarn.list
    for ending in ("map.dcm", "map.sc.dcm"):
        found = pydicom.dcmread(tmp_path / ending)
        assert str(found.PatientName) == name and found.PatientSex == "" and found.StudyDate == ""


def test_itk_and_pydicom_agree_on_a_secondary_capture(tmp_path):
    path, *_ = scans.write(tmp_path / "s", scans.series(AFFINE, scans.volume((1, 12, 10))))
    scans.heatmap((1, 12, 10), (1, 4, 4), (1, 2, 2)).save(
        tmp_path / "map.sc.dcm", source=path, image=np.zeros((12, 10), np.uint8)
    )
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "map.sc.dcm")))[0]
    found = pydicom.dcmread(tmp_path / "map.sc.dcm")
    assert np.array_equal(theirs, found.pixel_array) and theirs.shape[2] == 3 and theirs.std() > 0
    assert found.SourceImageSequence[0].ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID


def test_saving_is_whole_or_not_at_all(tmp_path):
    (tmp_path / "map.nii.gz").write_bytes(b"before")
    with pytest.raises(InputError):
        HEATMAP.save(tmp_path / "map.nii.gz", source=np.zeros((9, 9, 9)))
    assert (tmp_path / "map.nii.gz").read_bytes() == b"before"
    HEATMAP.save(tmp_path / "MAP.NII.GZ")
    assert nibabel.load(tmp_path / "MAP.NII.GZ").shape == (6, 5, 4)


def test_nothing_is_imported_otherwise():
    code = (
        "import sys, torch; from krypton_engine import Heatmap, medical; "
        "heavy = {'nibabel', 'pydicom', 'highdicom', 'tifffile', 'monai', 'PIL'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
