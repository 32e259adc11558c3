"""The one loop over positions, and the order in which they come."""
