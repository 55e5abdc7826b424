"""Extract features from clips into the feature store, streamed by Ray Data through one pool of actors per modality.

pipeline.py   the pipeline itself
run.py        one run: plan the work, stream it through the pipeline until every clip has an outcome
work.py       the work that is left, computed from the store
pools.py      the number and size of the actors of each stage
measure.py    time per stage, measured on a few clips before a long run
stage.py      base class of all actors, and the one place where any exception of a stage is caught
decoding.py, extracting.py, transcribing.py   the actors
summary.py    counts and timings of a run by stage
"""

from emi_ray.extraction.run import check, extract, plan

__all__ = ["check", "extract", "plan"]
