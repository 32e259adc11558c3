"""Whole maps from a part of the measurements, and how similar two maps are. Pure arithmetic."""
