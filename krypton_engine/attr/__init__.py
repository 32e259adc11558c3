"""The calls that users make: signatures, documentation, delegation."""
