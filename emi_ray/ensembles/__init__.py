"""Several finished runs as one system: a run like any other, which predicts, submits and stands in the report.

Its folder ``runs/<name>/<seed>/`` holds the members' models themselves, so that it outlives them. Weights are fitted
on the validation clips, which no member learnt from; what it then says of a validation clip comes from weights that
were fitted on other people's clips alone (folds between groups), so that its score is honest. Predictions of new
clips use weights that were fitted on all validation clips.

answers.py    what members say of the same clips, and one answer made of it
files.py      ``ensemble.json``, and an ensemble rebuilt from its files
members.py    the runs that make one: their clips and labels in common
build.py      an ensemble made of finished runs
scoring.py    an ensemble scored again
"""

from emi_ray.ensembles.build import build_ensemble
from emi_ray.ensembles.files import (
    ENSEMBLE,
    EnsembleDescription,
    describe_models,
    is_ensemble,
    labels_and_streams,
    load_ensemble,
    read_description,
)
from emi_ray.ensembles.scoring import evaluate_run

__all__ = [
    "ENSEMBLE",
    "EnsembleDescription",
    "build_ensemble",
    "describe_models",
    "evaluate_run",
    "is_ensemble",
    "labels_and_streams",
    "load_ensemble",
    "read_description",
]
