"""Which cells a position covers, and what changes there. Pure arithmetic."""
