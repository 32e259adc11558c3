"""The part of a DICOM header that a written object has to carry on; nothing else is kept of a patient.

An object in the patient's study has to say whose it is and what it was made from: DICOM asks for these
attributes (types 1 and 2 of the patient, the study, the frame of reference and the images that are referred
to). Everything else of a header is left where it was.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from krypton_engine.common.packages import imported

if TYPE_CHECKING:
    from pydicom import Dataset

DESCRIPTION = "Krypton occlusion map, not for medical use"
"""What every written file says of itself."""

_STUDY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What an object of a study has to have, though it may be empty."""

_IMAGE = (
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
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


@contextmanager
def quiet() -> Iterator[None]:
    """What pydicom and highdicom warn of unsaid: they quote values of the header, which may be the patient's.

    Examples:
        >>> import warnings
        >>> with quiet():
        ...     warnings.warn("Invalid value for VR PN: ...")
    """
    logs = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [log.level for log in logs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for log in logs:
                log.setLevel(logging.CRITICAL)
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)


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
    kept.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, whatever the texts were written in
    for keyword in _STUDY:
        text = str(header.get(keyword) or "")
        setattr(kept, keyword, text if _is_valid(keyword, text) else "")
    if "SliceThickness" not in kept:
        kept.SliceThickness = None
    for keyword in _FRAMES:
        if keyword in header:
            setattr(kept, keyword, [_place(item) for item in header[keyword].value])
    return kept


def _is_valid(keyword: str, text: str) -> bool:
    """Whether DICOM allows a text: anonymised headers hold anything in place of dates and sexes."""
    if keyword == "PatientSex":
        return text in ("F", "M", "O")
    forms = imported("pydicom.valuerep", "medical")
    try:
        form = forms.DA if keyword.endswith("Date") else forms.TM if keyword.endswith("Time") else str
        return form(text) is not None
    except ValueError:
        return False


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
