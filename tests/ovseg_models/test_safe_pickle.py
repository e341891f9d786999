"""Pickled arrays come back whole, whoever pickled them; a file that names anything else runs nothing."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ovseg_models.safe_pickle import read_array_pickle

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"]


@given(
    array=st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))),
    protocol=st.integers(2, 5),
    order=st.sampled_from("CF"),
)
def test_arrays_come_back_whole_in_every_protocol(array, protocol, order):
    content = OrderedDict(model={"weight": np.asarray(array, order=order)}, iteration=np.int64(7), name="x")
    found = read_array_pickle(pickle.dumps(content, protocol=protocol))
    weight = found["model"]["weight"]
    assert weight.dtype == array.dtype
    assert weight.shape == array.shape
    assert weight.tobytes() == array.tobytes()
    assert weight.flags.writeable
    assert found["name"] == "x"


def test_arrays_of_python_2_and_of_the_other_byte_order_are_read():
    numbers = np.array([[1.5, -2.0, 258.0]], ">f4")
    assert read_array_pickle(pickle.dumps({"w": numbers}))["w"].tolist() == numbers.tolist()
    by_python_2 = (  # pickle.dumps({"w": numpy.array([1, 2], "u1")}, 2) there, where bytes are strings
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x02\x01\xfetbs."
    )
    assert read_array_pickle(by_python_2)["w"].tolist() == [1, 254]


class Calls:
    """Has a function called when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_other_function_is_called(tmp_path, protocol):
    trap = pickle.dumps({"w": np.arange(3), "trap": Calls(open, str(tmp_path / "code-was-run"), "w")}, protocol)
    with pytest.raises(pickle.UnpicklingError, match=r"io\.open is named, arrays and plain values are expected"):
        read_array_pickle(trap)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([None, 1]), "an array of 'O8' is in it, numbers are expected"),
        (np.array(["text"]), "an array of 'U4' is in it"),
        (np.zeros(2, "f4,i4"), "an array of 'V8' is in it"),
        (torch.zeros(2), r"torch\._utils\._rebuild_tensor_v2 is named"),
        (Calls(np.load, "file"), r"numpy\.load is named"),
        (Calls(np.dtype, "f4"), None),
    ],
)
def test_other_arrays_and_functions_are_refused(content, message):
    stream = pickle.dumps({"w": content})
    if message is None:
        assert not isinstance(read_array_pickle(stream)["w"], np.ndarray)
        return
    with pytest.raises(pickle.UnpicklingError, match=message):
        read_array_pickle(stream)


@pytest.mark.parametrize("stream", [b"", b"\x80\x04.", b"no pickle", pickle.dumps(np.arange(9.0))[:-30]])
def test_damaged_streams_are_refused(stream):
    with pytest.raises(pickle.UnpicklingError):
        read_array_pickle(stream)


def test_bytes_that_do_not_fill_the_shape_are_refused():
    stream = pickle.dumps(np.arange(6, dtype="u1").reshape(2, 3)).replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86")
    with pytest.raises(pickle.UnpicklingError, match=r"ValueError: cannot reshape array of size 6 into shape \(2,4\)"):
        read_array_pickle(stream)
