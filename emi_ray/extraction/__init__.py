"""Clips → feature store, streamed through one pool of actors per modality by Ray Data.

pipeline.py   the pipeline itself
run.py        one run: what is to do, through the pipeline, until every clip has an outcome
work.py       what is still to do, read from the store
pools.py      how many actors of what size each stage gets
measure.py    how long each stage takes, tried before a long run
stage.py      what all actors share; the one boundary that quarantines a clip
decoding.py, extracting.py, transcribing.py   the actors
summary.py    what a run did, stage by stage
"""

from emi_ray.extraction.run import check, extract, plan

__all__ = ["check", "extract", "plan"]
