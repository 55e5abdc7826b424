"""Bytes → frames, faces and waveform."""
