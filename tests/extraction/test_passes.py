import logging
import time
from types import SimpleNamespace

import pytest
from ray.data.exceptions import ExecutionTimeoutError

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError
from emi_ray.extraction import passes
from emi_ray.extraction.passes import Passes
from emi_ray.extraction.summary import ExtractionSummary

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def one() -> Passes:
    pipeline = SimpleNamespace(config=WorkspaceConfig())
    nothing = dict.fromkeys(("maintenance", "left", "failures", "plan", "on_progress"))
    return Passes(pipeline, ExtractionSummary(), **nothing)


def test_a_careful_pass_without_progress_ends_the_run_and_blames_no_clip(one, monkeypatch):
    """Actors that wait for GPUs which another job holds: no process of a clip has died."""

    def stuck(dataset, blocks, is_left):
        blocks.put(ExecutionTimeoutError("no progress"))

    monkeypatch.setattr(passes, "_pump", stuck)
    assert list(one._blocks_of(None, writes_raw=False, careful=False)) == []
    with pytest.raises(EmiRayError, match="other jobs probably use the GPUs or CPUs"):
        list(one._blocks_of(None, writes_raw=False, careful=True))


def test_a_pass_that_waits_for_its_first_clip_says_so_once(one, monkeypatch, caplog):
    def slow(dataset, blocks, is_left):
        time.sleep(3.5)
        blocks.put(None)

    monkeypatch.setattr(passes, "_pump", slow)
    monkeypatch.setattr(passes, "TOLD_AFTER_S", 1.0)
    with caplog.at_level(logging.WARNING, logger="emi_ray"):
        assert list(one._blocks_of(None, writes_raw=False, careful=False)) == []
    assert [record.message[:42] for record in caplog.records] == [
        "No clip has been finished in the first 1 s"
    ]
