import pytest

from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace


@pytest.fixture
def store(tmp_path):
    store = FeatureStore(Workspace(str(tmp_path)), "audio", "0123456789ab")
    store.create({"extractor": "prosody"}, feature_dim=4)
    return store
