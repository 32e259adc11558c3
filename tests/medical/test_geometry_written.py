"""World coordinates of written maps, by other readers than ours."""

from dataclasses import replace
from itertools import permutations

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from support import scans

from krypton_engine.medical import read_scan

CLOSE = 1e-3  # mm
ORIENTATIONS = list(permutations(range(3)))
SHAPE, WINDOW, STRIDES = (1, 7, 6, 9), (1, 3, 2, 4), (1, 2, 2, 3)

twenty = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
few = settings(twenty, max_examples=3)  # highdicom takes 50 ms a map


def corners(shape):
    return np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)


def world(affine, indices):
    return np.asarray(indices) @ affine[:3, :3].T + affine[:3, 3]


def centres(window):
    """Indices (slice, row, column) of the centre of every whole window, and its grid coordinates."""
    grid = np.array(list(np.ndindex(window.counts[1:])))
    return grid, grid * window.strides[1:] + (np.array(window.shape[1:]) - 1) / 2


@pytest.mark.parametrize("axes", ORIENTATIONS)
@given(affine=scans.affines())
@twenty
def test_nifti(tmp_path, axes, affine):
    affine = affine[:, [*axes, 3]]
    cells = scans.volume(SHAPE[:0:-1])
    nibabel.save(nibabel.Nifti1Image(cells, affine), tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz")
    assert np.array_equal(scan.tensor[0].numpy(), cells.T)
    source, heatmap = nibabel.load(tmp_path / "scan.nii.gz"), scans.heatmap(SHAPE, WINDOW, STRIDES)

    heatmap.save(tmp_path / "map.nii.gz", source=scan)
    found = nibabel.load(tmp_path / "map.nii.gz")
    assert found.shape == source.shape and np.array_equal(found.get_fdata(), scans.spread(heatmap).T)
    assert abs(world(found.affine, corners(found.shape)) - world(affine, corners(found.shape))).max() < CLOSE

    both = [sitk.ReadImage(str(tmp_path / name)) for name in ("scan.nii.gz", "map.nii.gz")]
    assert np.array_equal(sitk.GetArrayFromImage(both[1]), scans.spread(heatmap))
    for corner in corners(found.shape).tolist():
        ours, theirs = (each.TransformIndexToPhysicalPoint(corner) for each in both)
        assert np.abs(np.subtract(ours, theirs)).max() < CLOSE

    heatmap.save(tmp_path / "own.nii", source=scan, grid="own")
    own = nibabel.load(tmp_path / "own.nii")
    grid, indices = centres(heatmap.window)
    assert abs(world(own.affine, grid[:, ::-1]) - world(affine, indices[:, ::-1])).max() < CLOSE
    assert np.array_equal(own.get_fdata(), heatmap.drop.numpy().T)


@pytest.mark.parametrize("axes", ORIENTATIONS)
@given(affine=scans.affines())
@few
def test_parametric_map(tmp_path, axes, affine):
    check_parametric_map(tmp_path, axes, affine)


@pytest.mark.slow
@pytest.mark.parametrize("axes", ORIENTATIONS)
@given(affine=scans.affines())
@twenty
def test_parametric_map_more_often(tmp_path, axes, affine):
    check_parametric_map(tmp_path, axes, affine)


def check_parametric_map(tmp_path, axes, affine):
    affine = affine[:, [*axes, 3]]
    paths = scans.write(tmp_path / "series", scans.series(affine, scans.volume(SHAPE[1:])))
    scan, heatmap = read_scan(paths), scans.heatmap(SHAPE, WINDOW, STRIDES)
    heatmap.save(tmp_path / "map.dcm", source=scan)
    found = pydicom.dcmread(tmp_path / "map.dcm")
    drop = scans.spread(heatmap)
    images = sorted(map(pydicom.dcmread, paths), key=lambda image: scan_index(scan, image))
    assert (
        int(found.NumberOfFrames) == len(images)
        and found.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    )
    turned = found.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    assert np.abs(np.subtract(turned, images[0].ImageOrientationPatient)).max() < 1e-6
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert np.abs(np.subtract(measures.PixelSpacing, images[0].PixelSpacing)).max() < 1e-6
    for groups, pixels in zip(found.PerFrameFunctionalGroupsSequence, found.pixel_array, strict=True):
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        away = [np.abs(np.subtract(place, image.ImagePositionPatient)).max() for image in images]
        assert min(away) < CLOSE and np.array_equal(pixels, drop[int(np.argmin(away))])
        referred = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert referred == images[int(np.argmin(away))].SOPInstanceUID

    heatmap.save(tmp_path / "own.dcm", source=scan, grid="own")
    own = highdicom.imread(tmp_path / "own.dcm").get_volume()
    grid, indices = centres(heatmap.window)
    truth = world(scans.LPS @ scan.geometry.affine, indices)
    inside = np.rint(own.map_reference_to_indices(truth)).astype(int)
    assert abs(own.map_indices_to_reference(inside) - truth).max() < CLOSE
    assert np.array_equal(own.array[tuple(inside.T)], heatmap.drop.numpy()[tuple(grid.T)])


def scan_index(scan, image):
    """The slice of a scan at whose first cell an image lies."""
    place = scans.LPS @ [*map(float, image.ImagePositionPatient), 1.0]
    index = np.linalg.inv(scan.geometry.affine) @ place
    assert abs(index - np.rint(index)).max() < 1e-3 and np.rint(index[1:3]).tolist() == [0, 0]
    return int(np.rint(index[0]))


def test_readers_agree_on_a_parametric_map(tmp_path):
    affine = np.array([[0, 0.3, 0.8, -9], [0, 0.4, -0.6, 4], [2.5, 0.0, 0, 7], [0, 0, 0, 1.0]])
    affine[:3, 1] = np.array([0.6, 0.8, 0]) * 0.5
    paths = scans.write(tmp_path / "series", scans.series(affine, scans.volume(SHAPE[1:])))
    heatmap = scans.heatmap(SHAPE, WINDOW, STRIDES)
    heatmap.save(tmp_path / "map.dcm", source=paths)
    heatmap.save(tmp_path / "map.nii.gz", source=paths)
    volume = highdicom.imread(tmp_path / "map.dcm").get_volume()
    nifti = nibabel.load(tmp_path / "map.nii.gz")
    cells = np.array(list(np.ndindex(nifti.shape)))
    places = world(nifti.affine, cells) * [-1, -1, 1]
    inside = np.rint(volume.map_reference_to_indices(places)).astype(int)  # highdicom turns slices round
    assert abs(volume.map_indices_to_reference(inside) - places).max() < CLOSE
    assert np.array_equal(volume.array[tuple(inside.T)], nifti.get_fdata()[tuple(cells.T)])
    again = read_scan(tmp_path / "map.dcm")
    assert np.array_equal(again.tensor[0].numpy(), nifti.get_fdata().T)
    assert np.allclose(again.geometry.arranged("WHD").affine, nifti.affine, atol=1e-5)


def test_monai_tensors_keep_their_axes(tmp_path):
    from monai.transforms import LoadImage

    affine = np.array([[-0.7, 0, 0, 9], [0, 0.8, 0.1, -3], [0, -0.02, 3.0, 1], [0, 0, 0, 1.0]])
    cells = scans.volume((9, 6, 7))
    nibabel.save(nibabel.Nifti1Image(cells, affine), tmp_path / "scan.nii.gz")
    tensor = LoadImage(image_only=True, ensure_channel_first=True)(tmp_path / "scan.nii.gz")
    heatmap = scans.heatmap((1, 9, 6, 7), (1, 4, 2, 3), (1, 3, 2, 2))
    heatmap.save(tmp_path / "map.nii.gz", source=tensor)
    found = nibabel.load(tmp_path / "map.nii.gz")
    assert np.array_equal(found.get_fdata(), scans.spread(heatmap)) and np.allclose(found.affine, affine)
    assert np.array_equal(read_scan(tmp_path / "scan.nii.gz", order="WHD").tensor, tensor)


def test_monai_reads_series_as_we_do(tmp_path):
    from monai.data import PydicomReader
    from monai.transforms import LoadImage

    affine = np.array([[0, 0, 0.8, -9], [0, 0.7, 0, 4], [2.5, 0.0, 0, 7], [0, 0, 0, 1.0]])
    scans.write(tmp_path / "series", scans.series(affine, scans.volume(SHAPE[1:])))
    loaded = LoadImage(PydicomReader(), image_only=True, ensure_channel_first=True)(tmp_path / "series")
    theirs, ours = read_scan(loaded), read_scan(tmp_path / "series", order="WHD")
    assert np.array_equal(theirs.tensor, ours.tensor)
    assert np.allclose(theirs.geometry.affine, ours.geometry.affine, atol=1e-6)


def test_maps_of_columns_first_lie_where_those_of_slices_first_do(tmp_path):
    affine = np.array([[0, 0, 0.8, -9], [0, 0.7, 0, 4], [2.5, 0.0, 0, 7], [0, 0, 0, 1.0]])
    scans.write(tmp_path / "series", scans.series(affine, scans.volume(SHAPE[1:])))
    one = scans.heatmap(SHAPE, WINDOW, STRIDES)
    sizes = ((1, *each[:0:-1]) for each in (SHAPE, WINDOW, STRIDES))
    other = replace(scans.heatmap(*sizes), values=one.values.permute(2, 1, 0))
    for grid in ("source", "own"):
        found = []
        for number, (heatmap, order) in enumerate(((one, "DHW"), (other, "WHD"))):
            scan = read_scan(tmp_path / "series", order=order)
            for ending in ("dcm", "nii"):
                path = tmp_path / f"map{number}.{ending}"
                heatmap.save(path, source=scan, grid=grid)
                found.append(read_scan(path))
        for each in found[1:]:
            assert np.array_equal(each.tensor, found[0].tensor)
            assert np.allclose(each.geometry.affine, found[0].geometry.affine, atol=1e-5)


def test_without_a_source_the_affine_is_the_identity(tmp_path):
    heatmap = scans.heatmap(SHAPE, WINDOW, STRIDES)
    heatmap.save(tmp_path / "map.nii")
    found = nibabel.load(tmp_path / "map.nii")
    assert np.array_equal(found.affine, np.eye(4)) and np.array_equal(
        found.get_fdata(), scans.spread(heatmap).T
    )


def test_ome_tiff(tmp_path):
    heatmap = scans.heatmap(SHAPE, WINDOW, STRIDES)
    source = read_scan(scans.volume(SHAPE[1:]), affine=np.diag([2.5, 0.5, 0.75, 1]))
    heatmap.save(tmp_path / "map.ome.tiff", source=source)
    with tifffile.TiffFile(tmp_path / "map.ome.tiff") as file:
        assert file.is_ome and file.series[0].axes == "ZYX"
        assert np.array_equal(file.asarray(), scans.spread(heatmap))
        for size in ('PhysicalSizeZ="2.5"', 'PhysicalSizeY="0.5"', 'PhysicalSizeX="0.75"'):
            assert size in file.ome_metadata
    assert read_scan(tmp_path / "map.ome.tiff").geometry.spacing == (2.5, 0.5, 0.75)


def test_a_picture_is_a_volume_of_one_slice(tmp_path):
    affine = np.array([[0, 0, 0.8, -9], [0, 0.5, 0, 4], [3.0, 0.0, 0, 7], [0, 0, 0, 1.0]])
    (path,) = scans.write(tmp_path / "one", scans.series(affine, scans.volume((1, 8, 10))))
    heatmap = scans.heatmap((1, 8, 10), (1, 4, 4), (1, 2, 2))
    heatmap.save(tmp_path / "map.dcm", source=path)
    volume = highdicom.imread(tmp_path / "map.dcm").get_volume()
    assert np.array_equal(volume.array, scans.spread(heatmap)[None])
    assert np.allclose(volume.affine[:, 1:], affine[:, 1:], atol=1e-6)
    assert read_scan(tmp_path / "map.dcm").geometry.spacing == pytest.approx((3.0, 0.5, 0.8))
    heatmap.save(tmp_path / "map.nii", source=path, grid="own")
    own = nibabel.load(tmp_path / "map.nii")
    assert own.shape == (4, 3, 1)
    assert np.allclose(own.affine @ [0, 0, 0, 1], scans.LPS @ affine @ [0, 1.5, 1.5, 1])


def test_windows_of_channels_are_averaged_and_the_unknown_stays_unknown(tmp_path):
    import torch

    heatmap = scans.heatmap((2, 6, 8), (1, 3, 4), (1, 3, 4))
    values = heatmap.values.clone()
    values[:, 0, 0], values[0, 1, 1] = torch.nan, torch.nan
    measured = values.isfinite()
    type(heatmap)(values, heatmap.base, measured, heatmap.window, target=0).save(
        tmp_path / "map.nii", grid="own"
    )
    found = nibabel.load(tmp_path / "map.nii").get_fdata()[..., 0].T
    assert np.isnan(found[0, 0]) and found[1, 1] == np.float32(1 - values[1, 1, 1])
    assert found[0, 1] == pytest.approx(float(1 - values[:, 0, 1].mean()))
