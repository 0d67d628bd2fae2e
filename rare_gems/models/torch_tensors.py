"""Tensors in files of PyTorch: named by dtype and shape, and read when they are asked for."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = ["FLOATS", "READABLE", "SAFETENSORS", "STORAGES", "Stored", "numbers"]

FLOATS = {  # by torch's name; each number of the narrow ones is a float32 exactly
    "float64": np.dtype("float64"), "float32": np.dtype("float32"), "float16": np.dtype("float16"),
    "bfloat16": np.dtype(jnp.bfloat16), "float8_e4m3fn": np.dtype(jnp.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(jnp.float8_e4m3fnuz), "float8_e5m2": np.dtype(jnp.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(jnp.float8_e5m2fnuz), "float8_e8m0fnu": np.dtype(jnp.float8_e8m0fnu),
}  # fmt: skip
READABLE = FLOATS | {
    name: np.dtype(name)
    for name in ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
}  # fmt: skip
SAFETENSORS = {  # its names; others are told as they are
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
STORAGES = {  # the kinds of torch's typed storages
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128", "QInt8": "quantized qint8", "QUInt8": "quantized quint8",
    "QInt32": "quantized qint32", "QUInt4x2": "quantized quint4x2", "QUInt2x4": "quantized quint2x4",
}  # fmt: skip


class Stored(NamedTuple):
    """A tensor in a file. dtype: as torch calls it, or what else it is ("quantized qint8"). shape. read: () -> array,
    None where NumPy has no such numbers."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray] | None


def numbers(tensor: Stored) -> np.ndarray:
    """Its numbers, as float32 if they are floats.

    Raises:
      ValueError: if they are not read, or a finite one is infinite as float32.

    Example:
      >>> numbers(Stored("float16", (2,), lambda: np.array([1, 2], np.float16)))
      array([1., 2.], dtype=float32)
    """
    if tensor.read is None:
        raise ValueError(f"expected a tensor of numbers, got {tensor.dtype}")
    with np.errstate(over="ignore"):
        array = tensor.read()
        if tensor.dtype not in FLOATS:
            return array
        single = array.astype(np.float32)
    lost = np.isinf(single) & np.isfinite(array)
    if lost.any():
        raise ValueError(f"expected finite numbers, got {array[lost][0]}, which float32 does not hold")
    return single
