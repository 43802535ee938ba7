"""protobuf <-> numpy. Encoding copies once, into the message; decoding is a view of the bytes protobuf hands out.

A `Tensor` is checked before memory is taken for it: the claimed shape must account for exactly the bytes
that are there, so a claimed size of 2 GB costs nothing.
"""

from __future__ import annotations

import math
import sys
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from rgopd.common.errors import InvalidInput, Malformed
from rgopd.protos import common_pb2

SCHEMA_VERSION = 1
"""Raised when a message changes in a way that old readers would misread; see `check_schema`."""

PROTOBUF = "application/x-protobuf"

_DTYPES: dict[int, np.dtype[Any]] = {
    common_pb2.DTYPE_INT32: np.dtype("<i4"),
    common_pb2.DTYPE_INT64: np.dtype("<i8"),
    common_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
    common_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

M = TypeVar("M", bound=Message)

if sys.byteorder != "little":  # pragma: no cover - the wire is little-endian and decoding does not copy
    raise ImportError("rgopd needs a little-endian machine")


def to_tensor(array: NDArray[Any]) -> common_pb2.Tensor:
    """Encode an int32, int64, float16 or float32 array of any shape.

    Raises:
        InvalidInput: another dtype; cast it first, so that precision is lost only where you say so.
    """
    code = _CODES.get(array.dtype)
    if code is None:
        raise InvalidInput(f"dtype {array.dtype} has no wire form; cast to int32, int64, float16 or float32")
    return common_pb2.Tensor(
        dtype=code,  # type: ignore[arg-type]
        shape=array.shape,
        data=np.ascontiguousarray(array).tobytes(),
    )


def from_tensor(
    tensor: common_pb2.Tensor,
    name: str = "tensor",
    *,
    dtype: str | None = None,
    ndim: int | None = None,
) -> NDArray[Any]:
    """Decode without a copy of our own: a read-only array over the bytes field.

    Args:
        tensor: the message; its `data` must hold exactly prod(shape) little-endian elements.
        name: the field's name, for the error.
        dtype: required numpy dtype name, e.g. "int32"; None accepts all four.
        ndim: required number of axes; None accepts any.

    Raises:
        InvalidInput: unknown or wrong dtype, wrong rank, negative axis, or bytes that do not fit the shape.
    """
    wire_dtype = _DTYPES.get(tensor.dtype)
    if wire_dtype is None:
        raise InvalidInput(f"{name}: unknown dtype code {tensor.dtype}; use int32, int64, float16 or float32")
    if dtype is not None and wire_dtype != np.dtype(dtype):
        raise InvalidInput(f"{name}: dtype must be {dtype}, got {wire_dtype.name}")
    shape = tuple(tensor.shape)
    if ndim is not None and len(shape) != ndim:
        raise InvalidInput(f"{name}: must have {ndim} axes, got shape {list(shape)}")
    if any(axis < 0 for axis in shape):
        raise InvalidInput(f"{name}: negative axis in shape {list(shape)}")
    # Python integers: a product of claimed axes cannot overflow into something that looks small.
    needed = math.prod(shape) * wire_dtype.itemsize
    data = tensor.data  # read once: every access makes a new bytes object out of the message
    if needed != len(data):
        raise InvalidInput(f"{name}: shape {list(shape)} of {wire_dtype.name} needs {needed} bytes, got {len(data)}")
    return np.frombuffer(data, dtype=wire_dtype).reshape(shape)


def parse(message_type: type[M], data: bytes | memoryview) -> M:
    """Parse protobuf bytes.

    Raises:
        Malformed: the bytes are not such a message.
    """
    message = message_type()
    try:
        message.ParseFromString(bytes(data))
    except DecodeError as error:
        raise Malformed(f"not a {message_type.DESCRIPTOR.full_name} message: {error}") from error
    return message


def check_schema(header: common_pb2.Header) -> None:
    """Refuse messages from a newer schema than this code reads (0 counts as 1: hand-written clients).

    Fields that are merely new are skipped by protobuf itself and need no new schema version.

    Raises:
        InvalidInput: the sender is newer.
    """
    if header.schema_version > SCHEMA_VERSION:
        raise InvalidInput(
            f"message has schema version {header.schema_version}, this service reads up to {SCHEMA_VERSION}: "
            "upgrade this service first"
        )


def header(run_id: str, rollout_id: str = "", *, attempt: int = 1, trace_id: str = "") -> common_pb2.Header:
    """A header of this code's schema version."""
    return common_pb2.Header(
        schema_version=SCHEMA_VERSION, run_id=run_id, rollout_id=rollout_id, attempt=attempt, trace_id=trace_id
    )
