"""Checkpoints of ``transformers``: exact versions, locations, and how they are loaded.

Used by extractors, which run frozen models, and by models, which fine-tune them.
"""
