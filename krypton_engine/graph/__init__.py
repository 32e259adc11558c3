"""The model as a list of functional operators whose dimensions have known roles."""
