"""What is measured of face pictures: texture, regions, movement. Pure functions of numpy arrays."""
