"""What torch.save wrote, read without torch: nothing of the file is run, and tensors are read when asked for.

A pickle names classes and functions and calls them. Here a name stands for one of the few ways in which torch stores
tensors (`_MAKE`), or for an object that does nothing (`Inert`), whatever it is called.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rare_gems.models.torch_tensors import READABLE, STORAGES, Stored

__all__ = ["LEGACY_MAGIC", "Inert", "read_legacy", "read_zip"]

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that older files begin with
_SIZES = {"complex64": 8, "complex128": 16, "quantized qint32": 4}  # bytes, of what is not read and has more than one
_HARMFUL = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|pty|runpy|importlib|ctypes)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|__import__)"
)


class Inert(dict):
    """Stands for an object of a class, or the value of a function, that torch does not store tensors with.

    `path` is the name of that class or function; `state` is what the object held. The items are those of a dict, if it
    is one.
    """

    path = ""
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        """Makes an empty one, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes pairs of keys and values, as an OrderedDict does, and ignores all else."""
        pairs = args[0] if self.path == "collections.OrderedDict" and args and isinstance(args[0], list) else ()
        super().__init__(pairs)

    def __setstate__(self, state: Any) -> None:
        """Keeps what the object held."""
        self.state = state

    def __eq__(self, other: object) -> bool:
        """Whether it is the same object."""
        return self is other

    __hash__ = object.__hash__  # type: ignore

    def append(self, item: Any) -> None:
        """Ignores a member of a list or set."""

    extend = add = append


class _Storage(NamedTuple):
    """Numbers in a row. dtype: None where the tensors say. start: of a view into it. bytes: () -> all of them."""

    dtype: str | None
    start: int
    bytes: Callable[[], bytes]


class _Make(NamedTuple):
    """A function of torch that makes tensors; an instance has no attributes that a pickle could set."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def read_zip(data: bytes) -> Any:
    """The object in a file of torch.save: dicts, lists and numbers, with a `Stored` for each tensor.

    Raises:
      ValueError: saying what is wrong with the file, or what else it is.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # of many types: damaged headers lead anywhere
        if b"PK\x05\x06" not in data:
            raise ValueError(f"cut off: a zip archive without its end, got {len(data):,} bytes") from None
        raise ValueError(f"damaged: the directory of its zip archive cannot be read ({_first_line(error)})") from None
    names = set(archive.namelist())
    root = next((name.removesuffix("data.pkl") for name in names if re.fullmatch(r"[^/]*/data\.pkl", name)), None)
    if root is None:
        kind = "a NumPy archive" if any(name.endswith(".npy") for name in names) else "a zip archive of something else"
        raise ValueError(f"{kind}, which holds {', '.join(sorted(names)[:3]) or 'nothing'}")
    if f"{root}constants.pkl" in names:
        raise ValueError("a TorchScript archive, which holds code (torch.jit.save)")

    def member(name: str) -> bytes:
        try:
            return archive.read(root + name)
        except KeyError:
            raise ValueError(f"damaged: {name} is missing in it") from None
        except Exception as error:
            raise ValueError(f"damaged: {name} cannot be read ({_first_line(error)})") from None

    if f"{root}byteorder" in names and member("byteorder") != b"little":
        raise ValueError("its numbers are big-endian, which is not read")
    return _load(io.BytesIO(member("data.pkl")), lambda key: member(f"data/{key}"))


def read_legacy(data: bytes) -> Any:
    """The same of a file that is no zip archive, as torch before 1.6 wrote them.

    Raises:
      ValueError: as `read_zip`.
    """
    stream = io.BytesIO(data)
    places: dict[str, tuple[int, int]] = {}
    sizes: dict[str, int] = {}

    def storage(key: str) -> bytes:
        start, size = places.get(key, (0, 0))
        return data[start : start + size]

    def unread(key: str) -> bytes:
        raise ValueError(f"damaged: storage {key} is asked for too early")

    _, version, system = (_load(stream, unread) for _ in range(3))
    if version != 1001 or not (isinstance(system, dict) and system.get("little_endian") is True):
        raise ValueError("its numbers are big-endian, or of an unknown version, which is not read")
    content = _load(stream, storage, sizes)
    keys = _load(stream, unread)
    for key in keys if isinstance(keys, list) else ():
        start = stream.tell() + 8
        places[str(key)] = start, int.from_bytes(stream.read(8), "little") * sizes.get(str(key), 1)
        if sum(places[str(key)]) > len(data):
            raise ValueError(f"cut off: its numbers end too early, at {len(data):,} bytes")
        stream.seek(sum(places[str(key)]))
    return content


def _load(stream: io.BytesIO, read: Callable[[str], bytes], sizes: dict[str, int] | None = None) -> Any:
    """Unpickles one object. read: the bytes of a storage by its key; `sizes` gets the bytes of a number by key."""
    start = stream.tell()
    try:
        _check_opcodes(stream)
        stream.seek(start)
        return _Unpickler(stream, read, sizes).load()
    except ValueError:
        raise
    except Exception as error:  # whatever bytes that are no pickle lead to
        raise ValueError(f"damaged: its pickle cannot be read ({type(error).__name__})") from None


def _check_opcodes(stream: io.BytesIO) -> None:
    """Refuses what is no whole pickle, or would take more memory than it has bytes for."""
    size = len(stream.getbuffer())
    try:
        for opcode, value, _ in pickletools.genops(stream):
            if "PUT" in opcode.name and isinstance(value, int) and value > size:  # a list as long as that would be made
                raise ValueError(f"place {value} in a pickle of {size:,} bytes")
    except ValueError as error:
        if re.search("exhausted|not enough data|remain|no newline", str(error)):
            raise ValueError("cut off: its pickle ends too early") from None
        raise ValueError(f"damaged: its pickle cannot be read ({_first_line(error)})") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, read: Callable[[str], bytes], sizes: dict[str, int] | None) -> None:
        super().__init__(stream, encoding="utf-8", errors="replace")
        self.read, self.sizes, self.types = read, sizes, {}

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if _HARMFUL.fullmatch(path):
            raise ValueError(f"its pickle would run {path}, which no file of weights needs; nothing of it was run")
        if path in _MAKE:
            return _Make(_MAKE[path])
        if module in ("torch", "torch.storage") and re.fullmatch(r"\w+Storage|[a-z]+\d\w*|bool", name):
            return name  # of a kind of storage, or of a dtype
        return self.types.setdefault(path, type(name, (Inert,), {"path": path}))

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class, with its source
            return pid[1]
        _, kind, key, _, _, *view = pid
        name = kind.removesuffix("Storage")
        dtype = STORAGES.get(name, None if name == "Untyped" else name)
        if self.sizes is not None:
            self.sizes[str(key)] = READABLE[dtype].itemsize if dtype in READABLE else _SIZES.get(str(dtype), 1)
        start = view[0][1] if view and view[0] is not None else 0
        return _Storage(dtype, start, lambda: self.read(str(key)))


def _tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, dtype: str | None = None) -> Stored:
    name, shape, stride = str(dtype or storage.dtype or "uint8"), tuple(map(int, size)), tuple(map(int, stride))
    if len(shape) != len(stride):
        raise ValueError(f"damaged: a tensor of shape {shape} has {len(stride)} strides")
    if name not in READABLE:
        return Stored(name, shape, None)

    def read() -> np.ndarray:
        numbers = storage.bytes()
        kind = READABLE[name]
        first = storage.start + offset
        last = first + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if not math.prod(shape):
            return np.zeros(shape, kind)
        if first < 0 or min((*stride, 0)) < 0 or (last + 1) * kind.itemsize > len(numbers):
            raise ValueError(f"damaged: a tensor of shape {shape} lies outside of its {len(numbers):,} bytes")
        bits = np.frombuffer(numbers, f"u{kind.itemsize}", count=last + 1)
        steps = [step * kind.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(bits[first:], shape, steps).copy().view(kind)

    return Stored(name, shape, read)


def _quantized(storage: _Storage, offset: int, size: tuple, *_: Any) -> Stored:
    return Stored(storage.dtype or "quantized", tuple(size), None)


def _sparse(layout: str, data: tuple) -> Stored:
    shape = next((part for part in reversed(data) if isinstance(part, tuple)), ())
    return Stored(f"sparse ({layout})", tuple(shape), None)


_MAKE: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, size, stride, *_: _tensor(storage, offset, size, stride),
    "torch._utils._rebuild_tensor_v3": lambda storage, offset, size, stride, _, __, dtype, *___: _tensor(
        storage, offset, size, stride, dtype
    ),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda make, _, args, __: make(*args),
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": lambda dtype, size, *_: Stored(f"meta {dtype}", tuple(size), None),
    "torch.serialization._get_layout": lambda name: str(name).removeprefix("torch."),
    "torch.Size": lambda size=(): tuple(size),
}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
