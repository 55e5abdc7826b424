"""Checkpoints of ``transformers``: which weights exactly, where they lie, and how they are loaded.

Below extractors, which run them frozen, and models, which train on from them.
"""
