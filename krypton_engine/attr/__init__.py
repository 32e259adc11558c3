"""What users call: signatures, documentation, delegation."""
