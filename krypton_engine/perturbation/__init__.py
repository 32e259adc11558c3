"""Cells that a position covers, and those that change there. Pure arithmetic."""
