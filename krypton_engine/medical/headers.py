"""The part of a DICOM header that a written object has to carry on; nothing else is kept of a patient.

An object in the patient's study has to say whose it is and what it was made from: DICOM asks for these
attributes (types 1 and 2 of the patient, the study, the frame of reference and the images that are referred
to). Everything else of a header is left where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krypton_engine.common.packages import imported

if TYPE_CHECKING:
    from pydicom import Dataset

_STUDY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What an object of a study has to have, though it may be empty."""

_IMAGE = (
    "SpecificCharacterSet", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "SOPClassUID", "SOPInstanceUID", "Rows", "Columns", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip

_FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PLACES = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
}
"""The groups of a frame that place it, and what is kept of them."""


def needed(header: Dataset) -> Dataset:
    """A copy of a header with what a written object has to carry, and nothing else.

    Args:
        header: The header of an image.

    Examples:
        >>> from pydicom import Dataset
        >>> header = Dataset()
        >>> header.PatientID, header.PatientComments, header.Rows = "7", "private", 64
        >>> kept = needed(header)
        >>> kept.PatientID, kept.Rows, "PatientComments" in kept
        ('7', 64, False)
    """
    kept = _chosen(header, _IMAGE)
    for keyword in _STUDY:
        setattr(kept, keyword, header.get(keyword) or "")
    if "SliceThickness" not in kept:
        kept.SliceThickness = None
    for keyword in _FRAMES:
        if keyword in header:
            setattr(kept, keyword, [_place(item) for item in header[keyword].value])
    return kept


def _place(groups: Dataset) -> Dataset:
    """What places a frame, of its functional groups."""
    kept = _chosen(groups, ())
    for keyword, names in _PLACES.items():
        if keyword in groups:
            setattr(kept, keyword, [_chosen(item, names) for item in groups[keyword].value])
    return kept


def _chosen(header: Dataset, keywords: tuple[str, ...]) -> Dataset:
    kept: Dataset = imported("pydicom", "medical").Dataset()
    for keyword in keywords:
        if keyword in header:
            setattr(kept, keyword, header[keyword].value)
    return kept
