"""Files of one clip's features."""

import io
import pickle

import numpy as np
import pytest
import torch
from ready_features import halves
from safetensors.torch import save

from emi_ray.errors import ClipError
from emi_ray.exchange.arrays import as_steps, check_range, read_array


def test_every_kind_of_file_gives_the_same_array():
    expected = halves(4, 3)
    npy, pt = io.BytesIO(), io.BytesIO()
    np.save(npy, expected)
    torch.save(torch.from_numpy(expected), pt)
    files = {
        ".npy": npy.getvalue(),
        ".pt": pt.getvalue(),
        ".pkl": pickle.dumps(expected),
        ".safetensors": save({"features": torch.from_numpy(expected)}),
    }
    for suffix, data in files.items():
        np.testing.assert_array_equal(read_array(data, suffix), expected)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (np.ones(5), (1, 5)),
        (np.ones((1, 4, 5)), (4, 5)),
        (np.ones((1, 1, 5)), (1, 5)),
        ([np.ones(5), np.ones(5)], (2, 5)),
        ([1.0, 2.0, 3.0], (1, 3)),
        ({"features": np.ones((4, 5)), "fps": 25.0, "name": "x"}, (4, 5)),
        ((torch.ones(4, 5),), (4, 5)),
        (torch.ones(4, 5, dtype=torch.bfloat16), (4, 5)),
        (np.ones((2, 3), int), (2, 3)),
    ],
)
def test_a_single_array_is_told_from_its_container(value, shape):
    assert as_steps(value).shape == shape


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": np.ones(2), "b": np.ones(3)}, "'a', 'b'"),
        ({}, "none"),
        ([np.ones(2), np.ones(3)], "different shapes"),
        (np.ones((2, 3, 4)), r"\(2, 3, 4\)"),
        (np.ones((0, 3)), r"\(0, 3\)"),
        ("text", "str"),
        (None, "NoneType"),
        (np.ones(2, complex), "complex"),
        (np.ones(2, bool), "bool"),
    ],
)
def test_what_is_no_single_array_is_refused_with_the_reason(value, words):
    with pytest.raises(ClipError, match=words):
        as_steps(value)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (np.nan, "not a finite"),
        (np.inf, "not a finite"),
        (65520.0, "exceeds the range of float16"),
        (-7e4, "exceeds the range of float16"),
    ],
)
def test_what_float16_cannot_hold_is_refused_by_its_place(number, words):
    values = np.zeros((3, 2))
    values[2, 1] = number
    with pytest.raises(ClipError, match=f"value 1 of step 2 .*{words}"):
        check_range(values, np.dtype(np.float16))
    values[2, 1] = 65504
    check_range(values, np.dtype(np.float16))


def test_damaged_files_are_refused():
    for suffix in (".npy", ".pt", ".pkl", ".safetensors"):
        with pytest.raises(ClipError, match="the file "):
            read_array(b"junk", suffix)


def test_npy_files_are_never_unpickled(hostile):
    make, trace = hostile
    buffer = io.BytesIO()
    np.save(buffer, np.array([make()], dtype=object), allow_pickle=True)
    with pytest.raises(ClipError, match=r"not a numeric \.npy file"):
        read_array(buffer.getvalue(), ".npy")
    assert not trace.exists()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_tensors_of_small_floats_are_read(dtype):
    stream = io.BytesIO()
    torch.save(torch.tensor([[0.5, -2.0]]).to(dtype), stream)
    np.testing.assert_array_equal(read_array(stream.getvalue(), ".pt"), [[0.5, -2.0]])


def test_a_tensor_in_compressed_rows_cannot_be_read():
    stream = io.BytesIO()
    torch.save(torch.eye(3).to_sparse_csr(), stream)
    with pytest.raises(ClipError, match=r"torch.sparse_csr cannot be read"):
        read_array(stream.getvalue(), ".pt")
