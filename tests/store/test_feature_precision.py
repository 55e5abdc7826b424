"""Half precision is used only where it preserves the variation of the features."""

import numpy as np
import pyarrow as pa
import pytest

from emi_ray.extraction.batches import Attempt
from emi_ray.extraction.extract_stage import _choose_precision, _fit_for_store
from emi_ray.extractors import Features
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_precision import spread_of
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.packed_reading import read_packed
from emi_ray.workspace import Workspace

RANDOM = np.random.default_rng(0).normal(size=(200, 3))


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        (RANDOM, "float16"),
        (RANDOM * 100, "float16"),
        (20_000 + RANDOM, "float32"),
        (RANDOM * 1e-8, "float32"),
        (RANDOM * 1e5, "float32"),
        (1e9 + RANDOM, None),
        (np.full((5, 2), 20_001.0), "float16"),
        (np.hstack([RANDOM, 20_000 + RANDOM[:, :1]]), "float32"),
    ],
    ids=["plain", "large", "offset", "tiny", "out of range", "doubles", "constant", "one dimension"],
)
def test_the_least_precision_that_keeps_the_variation_of_every_dimension(values, precision):
    assert spread_of([values[:3], values[3:]]).precision == precision


def test_the_loss_is_that_of_rounding_over_the_spread():
    values = 300 + RANDOM
    loss, dimension = spread_of([values]).loss("float16")
    errors = np.sqrt(np.square(values - values.astype(np.float16)).mean(axis=0)) / values.std(axis=0)
    assert loss == pytest.approx(errors.max(), rel=1e-9)
    assert dimension == errors.argmax()


def test_steps_that_no_store_can_hold_say_nothing():
    values = np.vstack([RANDOM, [np.nan, 0, 0], [np.inf, 0, 0], [1e39, 0, 0]])
    assert spread_of([values]).precision == "float16"


def test_single_precision_is_kept_from_the_store_to_training(tmp_path):
    store = FeatureStore(Workspace(str(tmp_path)), "audio", "0123456789ab")
    store.create({"extractor": "pitch"}, 3)
    clips = [(20_000 + RANDOM[:100]).astype(np.float32), (20_000 + RANDOM[100:]).astype(np.float32)]
    store.settle_precision(*_choose_precision(clips))
    store.settle_precision("float16")
    assert store.dtype == np.float32
    assert "dimension" in store.describe()["dtype_reason"]
    store.write([ClipFeatures(f"{i}", clip, np.zeros(100), {}) for i, clip in enumerate(clips)])
    packed = read_packed(store, pa.array(["1", "0"]))
    assert packed.values.dtype == np.float32
    np.testing.assert_array_equal(packed.of(0), clips[1])


def test_a_clip_that_the_stores_precision_cannot_hold_fails_with_its_reason():
    found = Features(np.full((1, 3), 70_000.0, np.float32), np.zeros(1, np.float32))
    result = _fit_for_store(Attempt("a", found), np.dtype(np.float16))
    assert result.failure is not None
    assert "beyond the range of float16" in result.failure[1]
    assert _fit_for_store(Attempt("a", found), np.dtype(np.float32)).result is found


def test_two_steps_alone_do_not_choose_single_precision():
    """With a thousand dimensions some seem not to vary in them."""
    features = np.random.default_rng(7).normal(size=(40, 1024)).astype(np.float32)
    features += np.random.default_rng(8).normal(scale=10, size=1024).astype(np.float32)
    assert _choose_precision([features[:2]]) == ("float16", "")
    assert _choose_precision([features])[0] == "float16"
    assert _choose_precision([features[:2] * 1e5])[0] == "float32"
