"""Ensembles: several finished runs combined into one, which every command accepts like any other run.

The folder ``runs/<name>/<seed>/`` contains copies of the members' models, so it still works when the member runs are
deleted. The weights of the members are fitted on the validation clips, on which no member was trained. They are
cross-fitted: the prediction of a validation clip uses weights that were fitted on clips of other people (folds
between groups). Otherwise the validation score would be optimistic. Predictions of new clips use weights that were
fitted on all validation clips.

member_predictions.py  predictions of all members for the same clips, and their weighted combination
files.py               ``ensemble.json``, and loading an ensemble from its files
members.py             the runs that form an ensemble: their common clips and labels
build.py               building an ensemble from finished runs
scoring.py             scoring an ensemble from its files
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
