"""Measurements of face images: texture, regions, motion. Pure functions of numpy arrays."""
