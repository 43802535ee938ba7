from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rgopd.common import wire
from rgopd.common.errors import InvalidInput, Malformed
from rgopd.protos import common_pb2, rollout_pb2

DTYPES = ["int32", "int64", "float16", "float32"]


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda d: hnp.arrays(np.dtype(d), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    )
)
def test_round_trip_keeps_bits_shape_and_dtype(array: np.ndarray) -> None:
    message = common_pb2.Tensor.FromString(wire.to_tensor(array).SerializeToString())
    back = wire.from_tensor(message)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_decoding_is_a_view_of_the_bytes_field() -> None:
    decoded = wire.from_tensor(wire.to_tensor(np.arange(6, dtype=np.int32).reshape(2, 3)))
    base = decoded
    while isinstance(base, np.ndarray):
        assert not base.flags.owndata
        assert not base.flags.writeable
        base = base.base  # type: ignore[assignment]
    assert isinstance(base, bytes)


def test_other_dtypes_are_refused_rather_than_rounded() -> None:
    with pytest.raises(InvalidInput, match="float64 has no wire form; cast"):
        wire.to_tensor(np.zeros(2))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=[3], data=b"\0" * 8), "needs 12 bytes, got 8"),
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=[-1], data=b""), "negative axis"),
        (common_pb2.Tensor(shape=[1], data=b"\0"), "unknown dtype code 0"),
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_FLOAT32, shape=[1], data=b"\0" * 4), "dtype must be int32"),
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=[1, 1], data=b"\0" * 4), "must have 1 axes"),
        # 2 GB claimed, and a product that overflows 64 bits: neither costs memory.
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=[1 << 29], data=b""), "needs 2147483648 bytes, got 0"),
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=[1 << 62], data=b""), "got 0"),
    ],
)
def test_claims_that_do_not_fit_are_refused(tensor: common_pb2.Tensor, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        wire.from_tensor(tensor, "ids", dtype="int32", ndim=1)


def test_garbage_is_malformed() -> None:
    with pytest.raises(Malformed, match=r"not a rgopd\.Rollout message"):
        wire.parse(rollout_pb2.Rollout, b"\xff\xff\xff\xff")


def test_a_newer_schema_is_refused_and_an_unset_one_is_not() -> None:
    wire.check_schema(common_pb2.Header())
    wire.check_schema(wire.header("run"))
    with pytest.raises(InvalidInput, match="upgrade this service first"):
        wire.check_schema(common_pb2.Header(schema_version=wire.SCHEMA_VERSION + 1))
