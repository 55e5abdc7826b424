"""Export events of a run as metrics on Ray's Prometheus endpoint; ``docs/how-to/monitoring.md`` lists their names.

Ray's agent on the driver's node serves them, on the port given by ``ray start --metrics-export-port``.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from emi_ray.events import LOGGER


class _Metrics(logging.Handler):
    """Updates the metrics from events."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        super().__init__(logging.DEBUG)
        self._clips = Counter("emi_ray_clips", "Clips that a stage has processed.", ("stage", "status"))
        self._quarantined = Counter("emi_ray_quarantined", "Clips that were quarantined.", ("stage",))
        self._score = Gauge("emi_ray_epoch_score", "Validation r of the last epoch.", ("run", "stage"))
        self._trials = Gauge("emi_ray_trials", "Trials of a study.", ("study", "state"))
        self._nodes_lost = Counter("emi_ray_nodes_lost", "Nodes that died during a run.", ())

    def emit(self, record: logging.LogRecord) -> None:
        event, fields = getattr(record, "event", None), getattr(record, "fields", {})
        if event == "clips":
            tags = {"stage": fields["stage"], "status": fields["status"]}
            self._clips.inc(fields["count"], tags)
            if fields["status"] == "failed":
                self._quarantined.inc(fields["count"], {"stage": fields["stage"]})
        elif event == "epoch" and fields["score"] == fields["score"]:
            self._score.set(fields["score"], {"run": fields["run"], "stage": fields["stage"]})
        elif event == "trials":
            for state, number in fields["states"].items():
                self._trials.set(number, {"study": fields["study"], "state": state})
        elif event == "node_lost":
            self._nodes_lost.inc(1)


@contextmanager
def exporting_metrics() -> Iterator[None]:
    """Export metrics while the ``with`` block runs. Needs a Ray session."""
    metrics = _Metrics()
    level = LOGGER.level
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.addHandler(metrics)
    try:
        yield
    finally:
        LOGGER.removeHandler(metrics)
        LOGGER.setLevel(level)
