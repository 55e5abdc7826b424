"""Bytes → frames, faces and waveform."""

MEDIA_VERSION = 4
"""Grows whenever the same file under the same settings decodes to something else; part of every fingerprint."""
