import pickle

import numpy as np
import pytest
import torch

from emi_ray.schema import EMOTION_LABELS, Label
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import from_arrays

CPU = torch.device("cpu")


def long_tailed(num_clips=200, dim=64, seed=0):
    random = np.random.default_rng(seed)
    lengths = np.minimum(random.lognormal(4, 1, num_clips).astype(int) + 1, 4000)
    steps = [random.normal(size=(n, dim)).astype(np.float16) for n in lengths]
    steps[3] = None
    targets = random.random((num_clips, 6))
    return from_arrays({"audio": steps}, targets, ["train"] * num_clips, EMOTION_LABELS), steps


@pytest.fixture(scope="module")
def data_and_steps():
    return long_tailed()


def test_every_clip_comes_back_as_it_was_packed(data_and_steps):
    data, steps = data_and_steps
    batcher = Batcher(data, ["audio"], CPU)
    rows = np.random.default_rng(1).permutation(len(data))[:40]
    rows[7] = 3
    sequences = batcher.inputs(rows)["audio"]
    clips = [
        values[mask].numpy()
        for group in sequences.pad().groups
        for values, mask in zip(group.values, group.mask, strict=True)
    ]
    order = np.arange(len(rows)) if sequences.pad().order is None else sequences.pad().order.numpy()
    for place, row in enumerate(rows):
        expected = np.empty((0, 64)) if steps[row] is None else steps[row]
        np.testing.assert_array_equal(clips[order[place]], expected.astype(np.float32))
        assert sequences.present[place] == (steps[row] is not None)


def test_padding_is_capped_however_long_the_longest_clip(data_and_steps):
    data, _ = data_and_steps
    batcher = Batcher(data, ["audio"], CPU)
    rows = np.argsort(-data.features["audio"].lengths)[[0, *range(50, 150)]]
    groups = batcher.inputs(rows)["audio"].pad().groups
    assert len(groups) > 1
    padded = sum(group.mask.numel() for group in groups)
    assert padded < 2 * sum(int(group.mask.sum()) for group in groups)


@pytest.mark.parametrize("bucket_batches", [1, 4])
def test_an_epoch_has_every_row_once_in_batches_of_nearly_equal_size(data_and_steps, bucket_batches):
    batcher = Batcher(data_and_steps[0], ["audio"], CPU)
    rows = np.arange(10, 155)
    batches = batcher.training_batches(rows, 16, bucket_batches, [42, 1])
    assert sorted(np.concatenate(batches)) == list(rows)
    assert {len(batch) for batch in batches} == {14, 15}


def test_the_order_depends_on_seed_and_epoch_alone(data_and_steps):
    batcher = Batcher(data_and_steps[0], ["audio"], CPU)

    def order(seed):
        return np.concatenate(batcher.training_batches(np.arange(100), 16, 4, seed)).tolist()

    assert order([42, 1]) == order([42, 1])
    assert order([42, 1]) != order([42, 2])
    assert order([42, 1]) != order([43, 1])


def test_bucketing_brings_clips_of_similar_length_together(data_and_steps):
    data, _ = data_and_steps
    batcher = Batcher(data, ["audio"], CPU)
    lengths = data.features["audio"].lengths

    def spread(bucket_batches):
        batches = batcher.training_batches(np.arange(len(data)), 10, bucket_batches, [0, 0])
        return np.mean([lengths[batch].max() / max(1, lengths[batch].mean()) for batch in batches])

    assert spread(20) < 0.6 * spread(1)


def test_evaluation_has_every_row_once_and_bounds_the_memory_of_a_batch(data_and_steps):
    batcher = Batcher(data_and_steps[0], ["audio"], CPU)
    batches = list(batcher.evaluation_batches(np.arange(200)))
    assert sorted(np.concatenate(batches)) == list(range(200))


def test_nothing_of_another_clip_lies_where_a_clip_is_absent(data_and_steps):
    group = Batcher(data_and_steps[0], ["audio"], CPU).inputs(np.array([3, 4]))["audio"].pad().groups[0]
    assert group.values[0].eq(0).all()
    assert not group.mask[0].any()


def test_targets_are_scaled_to_the_range_of_each_label_and_back():
    labels = [Label("age", 20, 70), Label("joy", -1, 1)]
    targets = np.array([[20, 0.5], [45, -1], [np.nan, 1]])
    data = from_arrays({"audio": [np.ones((2, 3))] * 3}, targets, ["train"] * 3, labels)
    expected = np.array([[0, 0.75], [0.5, 0], [np.nan, 1]])
    np.testing.assert_allclose(data.unit_targets, expected)
    np.testing.assert_allclose(data.in_units(expected), targets)


def test_clip_data_travels_without_copying_its_arrays(data_and_steps):
    buffers = []
    pickled = pickle.dumps(data_and_steps[0], protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 20_000
    back = pickle.loads(pickled, buffers=buffers)
    assert np.shares_memory(back.features["audio"].values, data_and_steps[0].features["audio"].values)


def test_read_only_memory_serves_as_well(data_and_steps, recwarn):
    data, _ = data_and_steps
    data.features["audio"].values.setflags(write=False)
    Batcher(data, ["audio"], CPU).inputs(np.arange(4))
    data.features["audio"].values.setflags(write=True)
    assert not recwarn.list
