"""What events of a run are on Ray's Prometheus endpoint, and that the page names all of it."""

import re
import time
import urllib.request
from pathlib import Path

import pytest

from emi_ray.events import count, tell
from emi_ray.runtime.metrics import exporting_metrics

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monitoring.md"


def read_endpoint() -> dict[str, float]:
    """Each of our series and its value."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    lines = urllib.request.urlopen(url, timeout=5).read().decode().splitlines()
    ours = [line.rpartition(" ") for line in lines if line.startswith("ray_emi_ray_")]
    return {series: float(value) for series, _, value in ours}


def value_of(found: dict[str, float], name: str, **labels: str) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    (value,) = [
        v
        for series, v in found.items()
        if re.match(rf"{name}\b", series) and all(w in series for w in wanted)
    ]
    return value


@pytest.mark.slow
def test_events_are_metrics_of_rays_endpoint_under_the_documented_names(ray_session):
    with exporting_metrics():
        count("clips", stage="audio", status="ok", count=3)
        count("clips", stage="audio", status="ok", count=4)
        count("clips", stage="audio", status="failed", count=2)
        count("epoch", run="f2/42", stage="fusion", epoch=3, score=0.25)
        count("trials", study="s", states={"complete": 5, "running": 2})
        tell("node_lost", node="10.0.0.2")
        deadline, found = time.monotonic() + 60, {}
        while len(found) < 7 and time.monotonic() < deadline:
            time.sleep(1)
            found = read_endpoint()
    assert value_of(found, "ray_emi_ray_clips_total", stage="audio", status="ok") == 7
    assert value_of(found, "ray_emi_ray_quarantined_total", stage="audio") == 2
    assert value_of(found, "ray_emi_ray_epoch_score", run="f2/42", stage="fusion") == 0.25
    assert value_of(found, "ray_emi_ray_trials", study="s", state="complete") == 5
    assert value_of(found, "ray_emi_ray_nodes_lost_total") == 1
    documented = set(re.findall(r"`(ray_emi_ray_\w+)`", PAGE.read_text()))
    assert {series.partition("{")[0] for series in found} == documented
