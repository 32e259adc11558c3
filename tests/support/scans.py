"""Scans made for tests: volumes, DICOM series and heatmaps of them."""

import numpy as np
import torch
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.windows import SlidingWindow

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

SECRETS = {
    "PatientComments": "secret-comment", "PatientAge": "044Y", "PatientWeight": "70.5",
    "InstitutionName": "secret-hospital", "PatientAddress": "secret-street", "Manufacturer": "secret-maker",
    "OperatorsName": "Secret^Operator", "PatientTelephoneNumbers": "secret-number",
    "StationName": "secret-station", "ProtocolName": "secret-protocol", "OtherPatientIDs": "secret-other",
    "SeriesDescription": "secret-series", "StudyDescription": "secret-study",
    "AdditionalPatientHistory": "secret-history",
}  # fmt: skip
"""What a header says and no written object may carry on."""

IDENTITY = {
    "PatientName": "Doe^Jane", "PatientID": "77-secret", "PatientBirthDate": "19700102", "PatientSex": "F",
    "StudyID": "S1", "StudyDate": "20200102", "StudyTime": "101112", "AccessionNumber": "A1",
    "ReferringPhysicianName": "Ref^Erring",
}  # fmt: skip
"""What DICOM asks of every object of a study."""


@st.composite
def affines(draw):
    """Affines of scanners: any rotation or mirror image, spacings of 0.3 to 6 mm, any offset."""
    number = st.floats(-1, 1)
    turned = Rotation.from_rotvec(np.pi * np.array(draw(st.tuples(number, number, number)))).as_matrix()
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = turned * spacing * draw(st.sampled_from([1, -1]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


def volume(shape, seed=0):
    """Stored numbers of 12 bits."""
    return np.random.default_rng(seed).integers(0, 4096, shape).astype(np.uint16)


def image(affine, cells, **changes):
    """A DICOM image ``(H, W)`` at an affine from (slice, row, column) to LPS, as a dataset."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    for keyword, value in {**SECRETS, **IDENTITY}.items():
        setattr(made, keyword, value)
    made.Modality, made.SamplesPerPixel, made.PhotometricInterpretation = "CT", 1, "MONOCHROME2"
    made.Rows, made.Columns = cells.shape[:2]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleSlope, made.RescaleIntercept, made.WindowCenter, made.WindowWidth = 1, -1024, 40, 400
    directions = (affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1])
    made.ImageOrientationPatient = [f"{x:.12f}" for each in directions for x in each]
    made.ImagePositionPatient = [f"{x:.9f}" for x in affine[:3, 3]]
    made.PixelSpacing = [f"{spacing[1]:.12f}", f"{spacing[2]:.12f}"]
    made.SliceThickness = f"{spacing[0]:.9f}"
    made.PixelData = np.ascontiguousarray(cells).tobytes()
    for keyword, value in changes.items():
        if value is None:
            made.pop(keyword, None)
        else:
            setattr(made, keyword, value)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def series(affine, cells, **changes):
    """The images of a series, one for each slice of ``cells``, in order."""
    uids = {
        "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
    }  # fmt: skip
    made = []
    for number, plane in enumerate(cells):
        moved = affine.copy()
        moved[:3, 3] = affine[:3, 3] + number * affine[:3, 0]
        made.append(image(moved, plane, **{**uids, "InstanceNumber": number + 1, **changes}))
    return made


def write(folder, images, seed=0):
    """Write images into a folder under names that say nothing of their order; returns the paths."""
    folder.mkdir(exist_ok=True)
    names = np.random.default_rng(seed).permutation(len(images))
    paths = [folder / f"IM{name:04d}" for name in names]
    for path, each in zip(paths, images, strict=True):
        each.save_as(path, enforce_file_format=True)
    return paths


def heatmap(input_shape, shape, strides, seed=0):
    """A map of random drops."""
    window = SlidingWindow(input_shape, shape, strides)
    values = torch.rand(window.grid_shape, generator=torch.Generator().manual_seed(seed))
    return Heatmap(
        values, torch.tensor(1.0), torch.ones(window.grid_shape, dtype=torch.bool), window, target=0
    )


def spread(found):
    """The drop of a heatmap of windows at every cell: that of the nearest centre, without the channel."""
    window, drop = found.window, found.drop.reshape(found.window.counts).numpy()[0]
    for axis in range(1, len(window.input_shape)):
        centres = np.arange(window.counts[axis]) * window.strides[axis] + (window.shape[axis] - 1) / 2
        cells = np.arange(window.input_shape[axis])[:, None]
        distances = abs(cells - centres)
        # Of two at the same distance the later one, as in pictures.
        nearest = len(centres) - 1 - distances[:, ::-1].argmin(1)
        drop = drop.take(nearest, axis=axis - 1)
    return drop
