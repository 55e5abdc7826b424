"""Measurements of audio: spectra, pitch and their course over a clip. Pure functions of numpy arrays."""
