"""DICOM objects of a map by highdicom: numbers as a Parametric Map, a picture as a Secondary Capture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from krypton_engine import __version__
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.packages import imported
from krypton_engine.errors import InputError
from krypton_engine.medical.geometry import LPS, Geometry, turned
from krypton_engine.medical.headers import DESCRIPTION, quiet

if TYPE_CHECKING:
    from pydicom import Dataset

_SERIES_NUMBER = 9100
"""Number of a written series, beyond those that scanners give."""

_SHEARED = 1e-4
"""Cosine of the angle between rows and columns, from which on they are not perpendicular."""


def parametric_map(cells: AnyArray, geometry: Geometry) -> bytes:
    """The bytes of a Parametric Map: float numbers by place, which refers to the series it was made from.

    Args:
        cells: The numbers, of the geometry's shape.
        geometry: Place of the cells, with the headers of the source.

    Raises:
        InputError: The geometry is not of a DICOM series with a place, or DICOM has no words for it.

    Examples:
        >>> parametric_map(np.zeros((2, 3, 4)), Geometry.of_spacing((2, 3, 4)))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is no DICOM series; accepted: ...
    """
    highdicom, codes = imported("highdicom", "medical"), imported("pydicom.sr.codedict", "medical").codes
    series = referable(geometry, by_place=True)
    geometry, cells = geometry.arranged("DHW"), turned(cells, geometry.order, "DHW")
    places = LPS @ geometry.affine
    slices, rows, columns = geometry.spacing
    along_row, along_column = places[:3, 2] / columns, places[:3, 1] / rows
    finite = cells[np.isfinite(cells)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    with _made("Parametric Map"):
        made = highdicom.pm.ParametricMap(
            source_images=series,
            pixel_array=np.ascontiguousarray(cells, dtype=np.float32),
            instance_number=1,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                highdicom.pm.RealWorldValueMapping(
                    "drop",
                    "Drop of the answer when this place is covered",
                    codes.UCUM.NoUnits,
                    (low, high),
                    1.0,
                    0.0,
                )
            ],
            voi_lut_transformations=[
                highdicom.VOILUTTransformation(
                    window_center=0.0, window_width=2 * max(abs(low), abs(high)) or 1.0
                )
            ],
            content_label="DROP",
            content_description="Drop of the answer when this place is covered",
            pixel_measures=highdicom.PixelMeasuresSequence((rows, columns), slices, slices),
            plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", [*along_row, *along_column]),
            plane_positions=[
                highdicom.PlanePositionSequence("PATIENT", places[:3, 3] + i * places[:3, 0])
                for i in range(len(cells))
            ],
            **_equipment(highdicom),
            manufacturer_model_name="krypton-occlusion",
            software_versions=__version__,
            device_serial_number="none",
        )
        return _bytes(made)


def secondary_capture(png: bytes, geometry: Geometry) -> bytes:
    """The bytes of a Secondary Capture: a picture that lies beside its source in the patient's study.

    Args:
        png: The picture, as a PNG.
        geometry: Geometry with the headers of the source.

    Raises:
        InputError: The geometry is not of DICOM files.

    Examples:
        >>> secondary_capture(b"", Geometry.of_spacing((2, 3, 4)))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is no DICOM series; accepted: ...
    """
    highdicom = imported("highdicom", "medical")
    series = referable(geometry, by_place=False)
    with imported("PIL.Image", "medical").open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    with _made("Secondary Capture"):
        made = highdicom.sc.SCImage.from_ref_dataset(
            series[0], pixels, "RGB", 8, "PATIENT", instance_number=1, patient_orientation=("L", "P"),
            **_equipment(highdicom),
        )  # fmt: skip
        made.PatientOrientation = None  # which a picture with a legend does not have
        made.SourceImageSequence = [_reference(image) for image in series]
        return _bytes(made)


@contextmanager
def _made(name: str) -> Iterator[None]:
    """Faults of highdicom, whose texts may quote the header, raised as faults of the source."""
    try:
        with quiet():
            yield
    except Exception as error:
        problem = f"of which highdicom makes no {name}: {type(error).__name__}"
        raise InputError("source", "a DICOM series", problem=problem) from None


def referable(geometry: Geometry, by_place: bool) -> list[Dataset]:
    """The headers of a source that a DICOM object can refer to.

    Args:
        geometry: Geometry with the headers.
        by_place: Whether the object says where its cells lie.

    Raises:
        InputError: The geometry is not of a DICOM series, or DICOM has no words for it.

    Examples:
        >>> referable(Geometry.of_spacing((2, 3, 4)), by_place=False)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: source is no DICOM series; accepted: ...
    """
    accepted = "for DICOM, a scan read from the DICOM files that the map was made from; without them, .nii.gz"
    if not geometry.series:
        raise InputError("source", "no DICOM series", accepted)
    needs = ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"]
    needs += ["FrameOfReferenceUID"] * by_place
    lacking = [name for name in needs if not all(image.get(name) for image in geometry.series)]
    if lacking:
        raise InputError("source", f"DICOM files without {', '.join(lacking)}", accepted, verb="has")
    _, rows, columns = (geometry.affine[:3, :3] / geometry.spacing).T[
        [geometry.order.index(a) for a in "DHW"]
    ]
    if by_place and abs(rows @ columns) > _SHEARED:
        given = "an affine whose rows and columns are not perpendicular"
        raise InputError("source", given, "for DICOM, perpendicular ones; .nii.gz takes this one", verb="has")
    return list(geometry.series)


def _equipment(highdicom: Any) -> dict[str, object]:
    """What every written object says of itself."""
    return {
        "series_instance_uid": highdicom.UID(),
        "sop_instance_uid": highdicom.UID(),
        "series_number": _SERIES_NUMBER,
        "series_description": DESCRIPTION,
        "manufacturer": "Krypton",
    }


def _reference(image: Dataset) -> Dataset:
    """A reference to an image."""
    item: Dataset = imported("pydicom", "medical").Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _bytes(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()
