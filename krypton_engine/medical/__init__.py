"""Scans: images of patients in the scanner's own numbers, with their geometry. Not for medical use.

``read_scan`` takes NIfTI, DICOM, TIFF and OME-TIFF, PNG, arrays and MONAI's tensors, and gives a ``Scan``:
the tensor that a network takes, and a ``Geometry``, by which a heatmap finds its place when it is saved. The
packages of the extra ``medical`` are imported when something of theirs is asked for.
"""

from krypton_engine.medical.geometry import Geometry
from krypton_engine.medical.reading import is_scan, read_scan
from krypton_engine.medical.scan import Scan

__all__ = ["Geometry", "Scan", "is_scan", "read_scan"]
