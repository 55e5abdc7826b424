"""Transfers of arrays to a model's device and back."""

import warnings

import numpy as np
import pytest
import torch

from emi_ray.extractors.pretrained.device import pack, to_device, to_host, unpack

CPU = torch.device("cpu")


def test_on_the_cpu_nothing_is_copied_and_memory_that_is_not_ours_raises_no_warning():
    owner = np.arange(12, dtype=np.float32)
    view = np.frombuffer(bytes(owner.tobytes()), np.float32).reshape(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = to_device([owner, view], CPU)
    owner[0] = 7
    assert first[0] == 7
    np.testing.assert_array_equal(second.numpy(), view)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_travel_as_one_stretch_of_memory_and_are_themselves_again(dtype):
    arrays = [np.arange(6).reshape(2, 3).astype(dtype), np.arange(4).reshape(1, 4).astype(dtype)]
    packed = pack(arrays, torch.empty(100, dtype=torch.uint8))
    assert packed.numel() == sum(array.nbytes for array in arrays)
    for tensor, array in zip(unpack(packed, arrays), arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == dtype


def test_results_come_back_as_arrays_of_the_same_type():
    tensors = [torch.tensor([0.1, 65504.0, float("inf")]).half(), torch.arange(6.0).view(2, 3)]
    for array, tensor in zip(to_host(tensors), tensors, strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())
        assert array.dtype == tensor.numpy().dtype
