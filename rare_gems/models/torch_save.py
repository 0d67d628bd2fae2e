"""State dicts as `torch.save` writes them, without torch: a zip of one pickle and the numbers of each tensor."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from rare_gems.models.torch_tensors import READABLE, STORAGES

__all__ = ["torch_file"]

_KINDS = {READABLE[name]: kind for kind, name in STORAGES.items() if name in READABLE}
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"  # GLOBAL, EMPTY_TUPLE, REDUCE
_ALIGN = 64  # as torch does, so that torch.load(mmap=True) may read in place


def torch_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a `.pt` file that `torch.load(..., weights_only=True)` reads as an `OrderedDict` of tensors.

    Equal tensors give equal bytes. The names of torch's functions are written, and nothing of torch is needed.

    Args:
      tensors: arrays by name, of a dtype that torch stores: floats (bfloat16 included), signed integers, uint8, bool.

    Raises:
      ValueError: naming a tensor of another dtype.

    Example:
      >>> from rare_gems.models.torch_pickle import read_zip
      >>> stored = read_zip(torch_file({"fc.weight": np.array([[1.0, 2.0]], np.float32)}))["fc.weight"]
      >>> stored.dtype, stored.read().tolist()
      ('float32', [[1.0, 2.0]])

    Source: the format of torch.save since version 1.6, protocol 2 of pickle.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    arrays = {name: array.astype(array.dtype.newbyteorder("<"), copy=False) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype not in _KINDS:
            raise ValueError(f"{name}: expected numbers that torch stores, got {array.dtype}")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add(archive, buffer, "data.pkl", _pickled(arrays))
        _add(archive, buffer, "byteorder", b"little")
        for number, array in enumerate(arrays.values()):
            _add(archive, buffer, f"data/{number}", array.tobytes())
        _add(archive, buffer, "version", b"3\n")
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, buffer: io.BytesIO, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))  # a time stamp would differ each time
    start = buffer.tell() + 30 + len(member.filename) + 4  # where the data would begin after an empty extra field
    filling = -start % _ALIGN
    member.extra = b"FB" + struct.pack("<H", filling) + b"Z" * filling
    archive.writestr(member, data)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """OrderedDict([(name, _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())), ...])."""
    items = b"".join(_text(name) + _tensor(str(i), array) for i, (name, array) in enumerate(arrays.items()))
    return b"\x80\x02" + _ORDERED_DICT + b"(" + items + b"u."  # PROTO 2; MARK, SETITEMS, STOP


def _tensor(key: str, array: np.ndarray) -> bytes:
    storage = _tuple(
        _text("storage"), b"ctorch\n" + f"{_KINDS[array.dtype]}Storage\n".encode(), _text(key), _text("cpu"),
        _integer(array.size),
    ) + b"Q"  # fmt: skip # BINPERSID: data/KEY
    strides = [step // array.itemsize for step in array.strides]
    arguments = storage, _integer(0), _integers(array.shape), _integers(strides), b"\x89", _ORDERED_DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + _tuple(*arguments) + b"R"


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _integers(values: Sequence[int]) -> bytes:
    return _tuple(*map(_integer, values))


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data
