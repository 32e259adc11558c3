"""Helpers that every room uses: numbers as users give them and read them, files written whole."""
