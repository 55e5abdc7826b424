"""Decoding: bytes → frames, faces and waveform."""

MEDIA_VERSION = 8
"""Increased whenever the same file and settings decode to something else; part of every fingerprint."""
