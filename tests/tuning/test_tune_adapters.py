"""The effect of a trial's end on the search, tested without Tune."""

import pytest
import ray
from tuning_studies import open_study

from emi_ray.errors import EmiRayError
from emi_ray.storage import StorageError
from emi_ray.tuning.tune_adapters import SearchLimits, Watcher, _is_loss
from emi_ray.workspace import Workspace


def test_a_node_that_dies_with_many_trials_does_not_end_the_search(tmp_path):
    with open_study(Workspace(str(tmp_path))) as study:
        watcher = Watcher(study, SearchLimits(100), lambda: None)
        for trial in [study.ask() for _ in range(16)]:
            watcher.lose(trial.number, "its node died")
        assert study.counts.lost == 16
        watcher.raise_if_hopeless()
        for trial in [study.ask() for _ in range(9)]:
            watcher.fail(trial.number, "KeyError: 'x'")
        with pytest.raises(EmiRayError, match="10 trials failed in a row; the last: .* KeyError: 'x'"):
            watcher.raise_if_hopeless()


def test_what_says_nothing_of_a_trials_settings_is_a_loss():
    outage = OSError("When uploading in bucket 'b': AWS Error SLOW_DOWN during PutObject operation")
    for cause in (ray.exceptions.ActorDiedError(), StorageError("out of reach"), outage):
        assert _is_loss(cause)
    for cause in (ValueError("nan"), PermissionError(13, "no", "x"), None):
        assert not _is_loss(cause)
