"""DICOM in: order, values, levels, and one clear error for what makes no volume."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import EnhancedCTImageStorage, generate_uid
from support import scans

from krypton_engine import InputError
from krypton_engine.medical import read_scan
from krypton_engine.zoo import load_image

SHAPE = (6, 7, 9)
OBLIQUE = np.array([[0.9, 0.3, 0.24, -9], [1.2, -0.4, 0.32, 4], [0, 0.0, 0.3, 7], [0, 0, 0, 1.0]])
OBLIQUE[:3, 2] = np.array([0.8, 0.6, 0]) * 0.5
OBLIQUE[:3, 1] = np.array([0.6, -0.8, 0]) * 0.7
OBLIQUE[:3, 0] = [0, 0, 3.0]
CELLS = scans.volume(SHAPE)


def by_itk(paths):
    """The volume as SimpleITK reads it, with GDCM's order of the files."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
    return reader.Execute()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mirrored", [False, True])
def test_files_in_any_order_make_the_volume_that_itk_reads(tmp_path, seed, mirrored):
    affine = OBLIQUE * [-1 if mirrored else 1, 1, 1, 1]
    paths = scans.write(tmp_path / "a folder", scans.series(affine, CELLS), seed)
    (tmp_path / "a folder" / "README.txt").write_text("not DICOM")
    scan, theirs = read_scan(tmp_path / "a folder"), by_itk(paths)
    assert np.array_equal(scan.tensor[0].numpy(), sitk.GetArrayFromImage(theirs))
    for index in ((0, 0, 0), (5, 6, 8), (2, 3, 1)):
        place = np.array(theirs.TransformIndexToPhysicalPoint(index[::-1])) * [-1, -1, 1]
        assert np.abs(scan.geometry.world(index) - place).max() < 1e-3
    assert scan.levels == pytest.approx((40 - 0.5 - 199.5, 40 - 0.5 + 199.5))
    assert read_scan([str(path) for path in paths[::-1]]) == scan


def test_slices_keep_their_own_slope(tmp_path):
    images = scans.series(OBLIQUE, CELLS)
    for number, image in enumerate(images):
        image.RescaleSlope, image.RescaleIntercept = f"{1 + number / 4}", f"{-number}"
    scan = read_scan(scans.write(tmp_path / "series", images))
    for image, found in zip(images[::-1], scan.tensor[0].numpy(), strict=True):  # against the normal
        assert np.allclose(found, apply_modality_lut(image.pixel_array, image))


def test_signed_numbers_of_sixteen_bits_stay_what_they_are(tmp_path):
    cells = np.linspace(-32768, 32767, 63).astype(np.int16).reshape(1, 7, 9)
    images = scans.series(
        OBLIQUE,
        cells,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=1,
        RescaleIntercept=None,
        RescaleSlope=None,
    )
    (path,) = scans.write(tmp_path / "series", images)
    scan = read_scan(path)
    assert scan.is_picture and np.array_equal(scan.tensor.numpy(), cells)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT"])
def test_levels_give_the_bytes_that_pydicom_gives(tmp_path, function):
    changes = {} if function is None else {"VOILUTFunction": function}
    (image,) = scans.series(OBLIQUE, CELLS[:1], WindowCenter=[500, 40], WindowWidth=[1500, 400], **changes)
    scan = read_scan(scans.write(tmp_path / "one", [image])[0])
    hounsfield = apply_modality_lut(image.pixel_array, image)
    theirs = apply_windowing(hounsfield, image)
    theirs = (theirs - theirs.min()) / (theirs.max() - theirs.min()) * 255
    assert np.abs(scan.bytes()[0] - theirs).max() <= 0.51


def test_monochrome1_is_turned_so_that_bright_is_greater(tmp_path):
    one, two = (
        scans.series(OBLIQUE, cells, PhotometricInterpretation=kind, WindowCenter=centre)[0]
        for kind, cells, centre in (
            ("MONOCHROME1", 4095 - CELLS[:1], 4095 - 2048 - 600 + 1),
            ("MONOCHROME2", CELLS[:1], 600),
        )
    )
    found, plain = (read_scan(scans.write(tmp_path / str(i), [each])[0]) for i, each in enumerate((one, two)))
    assert np.array_equal(found.tensor, plain.tensor)
    assert found.levels == pytest.approx(plain.levels, abs=1.01)  # a window lies beside its centre by a half


def test_colours(tmp_path):
    cells = np.random.default_rng(0).integers(0, 256, (1, 7, 9, 3)).astype(np.uint8)
    images = scans.series(
        OBLIQUE, cells, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB",
        BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope=None, RescaleIntercept=None,
    )  # fmt: skip
    scan = read_scan(scans.write(tmp_path / "one", images)[0])
    assert np.array_equal(scan.tensor.numpy(), cells[0].transpose(2, 0, 1)) and scan.levels == (0, 255)
    assert np.array_equal(scan.bytes(), cells[0].transpose(2, 0, 1))


def frames(cells, order, places):
    """A file of several frames, whose places are the frames' own."""
    image = scans.series(
        OBLIQUE, cells[:1], ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None,
        RescaleSlope=None, RescaleIntercept=None, SliceThickness=None, SOPClassUID=EnhancedCTImageStorage,
    )[0]  # fmt: skip
    source = scans.series(OBLIQUE, cells)
    image.NumberOfFrames, image.PixelData = len(order), cells[order].tobytes()
    shared, measures, turned = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, turned.ImageOrientationPatient = (
        source[0].PixelSpacing,
        source[0].ImageOrientationPatient,
    )
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turned]
    image.SharedFunctionalGroupsSequence, groups = [shared], []
    for which in order:
        frame, place, slope = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = source[which].ImagePositionPatient
        slope.RescaleSlope, slope.RescaleIntercept, slope.RescaleType = str(which + 1), "-1", "US"
        frame.PixelValueTransformationSequence = [slope]
        if places:
            frame.PlanePositionSequence = [place]
        groups.append(frame)
    image.PerFrameFunctionalGroupsSequence = groups
    return image


def test_frames_of_one_file_are_sorted_too(tmp_path):
    (path,) = scans.write(tmp_path / "one", [frames(CELLS, [3, 0, 5, 1, 4, 2], places=True)])
    scan = read_scan(path)
    classic = read_scan(scans.write(tmp_path / "series", scans.series(OBLIQUE, CELLS)))
    assert np.allclose(scan.geometry.affine, classic.geometry.affine)
    slopes = np.arange(6, 0, -1)[:, None, None]  # against the normal
    assert np.array_equal(scan.tensor[0], (classic.tensor[0].numpy() + 1024) * slopes - 1)
    heatmap = scans.heatmap((1, *SHAPE), (1, 2, 3, 3), (1, 2, 2, 2))
    heatmap.save(tmp_path / "map.dcm", source=path)
    found = pydicom.dcmread(tmp_path / "map.dcm")
    assert found.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    assert np.array_equal(read_scan(tmp_path / "map.dcm").tensor[0], scans.spread(heatmap))


def test_the_same_file_twice_counts_once(tmp_path):
    images = scans.series(OBLIQUE, CELLS)
    assert read_scan(scans.write(tmp_path / "s", [*images, images[2]])).geometry.shape == SHAPE


def other_series():
    return [*scans.series(OBLIQUE, CELLS[:4]), *scans.series(OBLIQUE, CELLS)]


def two_orientations():
    images = scans.series(OBLIQUE, CELLS)
    images[4].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return images


def duplicates():
    images = scans.series(OBLIQUE, CELLS)
    images[3].ImagePositionPatient = images[2].ImagePositionPatient
    return images


def two_phases():
    images = scans.series(OBLIQUE, CELLS)
    again = scans.series(OBLIQUE, CELLS)
    for image in again:
        image.SeriesInstanceUID, image.FrameOfReferenceUID = (
            images[0].SeriesInstanceUID,
            images[0].FrameOfReferenceUID,
        )
    return [*images, *again]


def gap():
    images = scans.series(OBLIQUE, CELLS)
    return images[:2] + images[3:]


def beside():
    images = scans.series(OBLIQUE, CELLS)
    images[3].ImagePositionPatient = [
        float(x) + mm for x, mm in zip(images[3].ImagePositionPatient, (4, 0, 0), strict=True)
    ]
    return images


def other_size():
    images = scans.series(OBLIQUE, CELLS)
    other = scans.image(OBLIQUE, CELLS[0][:5], SOPInstanceUID=generate_uid())
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(other, keyword, images[0][keyword].value)
    return [*images[1:], other]


def other_spacing():
    images = scans.series(OBLIQUE, CELLS)
    images[3].PixelSpacing = ["0.9", "0.5"]
    return images


def without(keyword):
    return lambda: scans.series(OBLIQUE, CELLS, **{keyword: None})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_series, "source has 2 series: 6 images and 4 images; accepted: one series"),
        (two_orientations, "several orientations"),
        (duplicates, "source has 1 places with several images|source has 2 images at one place"),
        (two_phases, "places with several images; accepted: one image a place"),
        (gap, "source has 6 mm from slice . to the next, and 3 mm elsewhere"),
        (beside, "shifted beside each other"),
        (other_size, "images of 5 and 7 rows"),
        (other_spacing, "differ in size"),
        (without("ImagePositionPatient"), "images without ImagePositionPatient"),
        (without("ImageOrientationPatient"), "images without ImagePositionPatient"),
        (without("PixelSpacing"), "images without ImagePositionPatient"),
        (lambda: [frames(CELLS, [0, 1], places=False)], "images without ImagePositionPatient"),
        (lambda: scans.series(OBLIQUE, CELLS, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "perpendicular"),
        (lambda: scans.series(OBLIQUE, CELLS, ImageOrientationPatient=[0] * 6), "perpendicular"),
        (lambda: scans.series(OBLIQUE, CELLS, PixelData=b"12"), "cannot be decoded"),
    ],
)
def test_what_makes_no_volume_gets_one_clear_error(tmp_path, make, words):
    images = make()
    with pytest.raises(InputError, match=words) as caught:
        read_scan(scans.write(tmp_path / "series", images)[0].parent)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value).lower()


def test_tilted_gantries_shear(tmp_path):
    tilted = OBLIQUE.copy()
    tilted[:3, 0] = [0, 0.4, 2.9]
    scan = read_scan(scans.write(tmp_path / "series", scans.series(tilted, CELLS)))
    for number, image in enumerate(scans.series(tilted, CELLS)):
        index = 5 - number if np.dot(tilted[:3, 0], np.cross(tilted[:3, 2], tilted[:3, 1])) < 0 else number
        place = np.array(image.ImagePositionPatient, dtype=float) * [-1, -1, 1]
        assert np.abs(scan.geometry.world((index, 0, 0)) - place).max() < 1e-3


def test_a_folder_of_folders(tmp_path):
    scans.write(tmp_path / "series", scans.series(OBLIQUE, CELLS))
    with pytest.raises(InputError, match="without DICOM images, whose own folders are not looked into"):
        read_scan(tmp_path)


def test_the_zoo_takes_dicom_through_window_and_level(tmp_path):
    for number, kind in enumerate(("MONOCHROME1", "MONOCHROME2")):
        images = scans.series(
            OBLIQUE, CELLS[:1], PhotometricInterpretation=kind, WindowCenter=500, WindowWidth=1501
        )
        (path,) = scans.write(tmp_path / f"{number}", images)
        found = np.asarray(load_image(path))
        shares = np.clip((CELLS[0] - 1024.0 - (500 - 0.5 - 750)) / 1500, 0, 1)
        grey = 255 * (shares if kind == "MONOCHROME2" else 1 - shares)
        assert found.shape == (7, 9, 3) and np.abs(found - grey[..., None]).max() <= 0.51
    (path,) = scans.write(tmp_path / "volume", [frames(CELLS, [0, 1, 2], places=True)])
    with pytest.raises(InputError, match="a volume"):
        load_image(path)


def test_radiographs_have_pixels_of_a_size_but_no_place(tmp_path):
    changes = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    images = scans.series(OBLIQUE, CELLS[:1], **changes, ImagerPixelSpacing=["0.2", "0.1"])
    (path,) = scans.write(tmp_path / "one", images)
    scan, heatmap = read_scan(path), scans.heatmap((1, 7, 9), (1, 4, 4), (1, 2, 2))
    assert scan.geometry.spacing == (1.0, 0.2, 0.1) and scan.window_mm(0.4) == (1, 2, 4)
    with pytest.raises(InputError, match="source has DICOM files without FrameOfReferenceUID"):
        heatmap.save(tmp_path / "map.dcm", source=scan)
    heatmap.save(tmp_path / "map.sc.dcm", source=scan, image=scan.bytes()[0])
    assert pydicom.dcmread(tmp_path / "map.sc.dcm").StudyInstanceUID == images[0].StudyInstanceUID


@pytest.mark.parametrize(
    "content", [b"", b"words", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\x08\x00" * 9]
)
def test_files_that_are_no_images(tmp_path, content):
    (tmp_path / "scan.dcm").write_bytes(content)
    with pytest.raises(InputError, match="source is .*scan.dcm', (which|a DICOM file without)"):
        read_scan(tmp_path / "scan.dcm")


def test_a_file_cut_short(tmp_path):
    (path,) = scans.write(tmp_path / "one", scans.series(OBLIQUE, CELLS[:1]))
    whole = path.read_bytes()
    for length in (200, 600, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="source is"):
            read_scan(path)
