"""What is measured of sound: spectra, pitch and their course over a clip. Pure functions of numpy arrays."""
