"""Extractors that call other programs or packages, or read their files: openSMILE and OpenFace."""
