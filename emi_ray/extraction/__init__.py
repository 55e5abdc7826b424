"""Clips → feature store, streamed through one pool of actors per modality by Ray Data.

work.py       what is still to do, read from the store
pools.py      how many actors of what size each stage gets
stages.py     the actors: decode; extract and write
pipeline.py   the pipeline itself
summary.py    what a run did, stage by stage
"""

from emi_ray.extraction.pipeline import extract

__all__ = ["extract"]
