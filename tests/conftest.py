"""What tests in several folders share: one Ray session, one small rendered corpus."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of tests would fight for two cores
# Of the S3 server that tests start; set before Ray's workers inherit the environment.
os.environ.update(
    AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true"
)

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from emi_ray.corpus.demo import render_demo

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in a background job of a shell. Tests interrupt processes, which would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
    os.environ.pop(_name, None)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a Ray session are slow, and those that take minutes are left out unless they are asked for."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("long") and "EMI_RAY_LONG_TESTS" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="takes minutes: make test-long runs it"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small local Ray session with its own folder: logical CPUs only, no dashboard, no authentication."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    with tempfile.TemporaryDirectory(prefix="emi-ray-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=8,
            resources={"cores": 2, "readers": 2},
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 rendered clips and their clips.csv. Tests read it and change nothing."""
    folder = tmp_path_factory.mktemp("corpus")
    render_demo(folder, num_clips=24, workers=1)
    return folder


@pytest.fixture(autouse=True)
def hears_every_record(caplog):
    """After an error in a Ray session, its handlers stay silent for the rest of the process, those of pytest too."""
    caplog.handler.setLevel(logging.NOTSET)
