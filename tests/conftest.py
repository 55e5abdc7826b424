"""What tests in several folders share."""

import os
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small local Ray session with its own folder: logical CPUs only, no dashboard, no authentication."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    with tempfile.TemporaryDirectory(prefix="emi-ray-", dir="/tmp") as folder:
        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        yield
        ray.shutdown()
