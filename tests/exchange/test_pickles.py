"""Pickles may hold plain data only, and cannot execute code."""

import builtins
import io
import os
import pickle
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch

from emi_ray.exchange.pickles import RefusedError, load_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def saved(value: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", ">f4", "?"])
def test_numpy_arrays_are_read_bit_by_bit(protocol, dtype):
    for array in (
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(12)[::2],
    ):
        expected = array.astype(dtype)
        found = load_pickle(pickle.dumps(expected, protocol))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickled_tensors_are_read(protocol):
    whole = torch.arange(12.0).view(3, 4)
    for tensor in (whole, whole.T, whole[1:, 2:], whole.bfloat16(), whole.clone().requires_grad_()):
        torch.testing.assert_close(load_pickle(pickle.dumps(tensor, protocol)), tensor.detach())
    torch.testing.assert_close(load_pickle(pickle.dumps(torch.nn.Parameter(whole), protocol)), whole)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save_are_read(zipped):
    held = load_pickle(saved({"tensor": torch.ones(2, 3), "array": np.arange(4.0)}, zipped))
    torch.testing.assert_close(held["tensor"], torch.ones(2, 3))
    np.testing.assert_array_equal(held["array"], np.arange(4.0))


def test_pickles_of_older_numpy_are_read():
    data = pickle.dumps(np.arange(3.0), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in data
    np.testing.assert_array_equal(load_pickle(data), np.arange(3.0))


def test_containers_numbers_and_text_are_read():
    value = OrderedDict(a=[np.float32(2), (np.ones(2), "text")], b=None)
    found = load_pickle(pickle.dumps(value))
    assert found["a"][0] == 2
    np.testing.assert_array_equal(found["a"][1][0], [1, 1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hostile_pickle_is_refused_by_name_and_nothing_of_it_runs(hostile, protocol):
    make, trace = hostile
    for value in (make(), {"x": np.ones(2), "y": [make()]}):
        with pytest.raises(RefusedError, match=r"posix\.system"):
            load_pickle(pickle.dumps(value, protocol))
    assert not trace.exists()
    pickle.loads(pickle.dumps(make(), protocol))
    assert trace.exists(), "the pickle would have run"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_of_torch_save_is_refused_by_name(hostile, zipped):
    make, trace = hostile
    with pytest.raises(RefusedError, match=r"posix\.system"):
        load_pickle(saved({"x": make()}, zipped))
    assert not trace.exists()


def test_a_hostile_pickle_inside_a_tensor_is_refused(hostile):
    make, trace = hostile
    with pytest.raises(RefusedError, match=r"posix\.system"):
        load_pickle(pickle.dumps(Calls(torch.storage._load_from_bytes, saved(make(), zipped=False))))
    assert not trace.exists()


@pytest.mark.parametrize("function", [builtins.eval, builtins.getattr, subprocess.Popen, torch.load, np.load])
def test_no_other_function_is_found(function):
    with pytest.raises(RefusedError, match=r"wants to use .*: only numpy arrays and torch tensors"):
        load_pickle(pickle.dumps(Calls(function, "1")))


@pytest.mark.parametrize(
    "array",
    [
        np.array([None, 1], dtype=object),
        np.array(["a"]),
        np.zeros(2, dtype=[("a", "f4")]),
        np.array(["2020"], "M8[D]"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(array):
    with pytest.raises(RefusedError, match="not of numbers"):
        load_pickle(pickle.dumps(array))


def test_a_forged_type_cannot_have_bytes_taken_for_objects():
    class Forged:
        def __reduce__(self):
            state = (1, (1,), np.dtype("f8"), False, b"\x41" * 8)
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state

    data = pickle.dumps(Forged(), 2)
    assert load_pickle(data).shape == (1,)
    with pytest.raises(RefusedError):
        load_pickle(data.replace(b"f8", b"O8"))


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(0, (10**6,), (1,)), (0, (2,), (-1,)), (-5, (2,), (1,)), (1, (2,), (1,))]
)
def test_a_tensor_never_leads_out_of_its_memory(offset, size, stride):
    storage = pickle.dumps(torch.ones(2), 2)
    assert load_pickle(storage).sum() == 2

    class Forged:
        def __reduce__(self):
            memory = torch.ones(2)._typed_storage()
            return torch._utils._rebuild_tensor_v2, (memory, offset, size, stride, False, OrderedDict())

    with pytest.raises(RefusedError, match="out of its memory"):
        load_pickle(pickle.dumps(Forged()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"PK\x03\x04 no archive",
        pickle.dumps(np.ones(5))[:-20],
        pickle.dumps(torch.ones(5))[:-80],
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
        pickle.dumps(os.getcwd),
    ],
)
def test_damaged_files_are_refused_in_one_line(data):
    with pytest.raises(RefusedError) as caught:
        load_pickle(data)
    assert "\n" not in str(caught.value)


def test_a_container_of_itself_is_refused():
    endless: list = []
    endless.append(endless)
    with pytest.raises(RefusedError):
        load_pickle(pickle.dumps(endless))
