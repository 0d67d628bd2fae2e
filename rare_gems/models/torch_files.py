"""Files of weights from PyTorch, told by their first bytes: what they hold, or what else they are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from rare_gems.models.torch_pickle import LEGACY_MAGIC, Inert, read_legacy, read_zip
from rare_gems.models.torch_tensors import READABLE, SAFETENSORS, Stored

__all__ = ["Flat", "read_tensors"]

Flat = dict[tuple[str, ...], Stored]  # by the keys of the dicts that hold a tensor, outermost first

_EXPECTED = "; expected torch.save(network.state_dict(), ...)"
_DEEPEST = 8  # dicts within dicts
_OPTIMIZER = {"state", "param_groups"}  # what torch.optim's state dicts hold
_KINDS = (  # how other files begin
    (rb"version https://git-lfs", "a Git LFS pointer instead of the file: git lfs pull fetches it"),
    (rb"\s*(\xef\xbb\xbf)?\s*<(!|\?|[a-zA-Z])", "a web page (HTML or XML) instead of the file: download it again"),
    (rb"\s*[\[{]", "JSON text"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes them"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"GGUF", "a GGUF file"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "a compressed file: decompress it first"),
    (rb".{257}ustar", "a tar archive: unpack it first"),
    (rb"\x80[\x00-\x05]", "a Python pickle that torch.save did not write"),
)


def read_tensors(path: Path) -> Flat:
    """The tensors of a file, by where they lie in the dicts that it holds; a safetensors file is one dict.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: in one line that says what the file is or what is wrong with it, and what was expected.

    Example:
      >>> import tempfile
      >>> from safetensors.numpy import save_file
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = Path(folder) / "weights.safetensors"
      ...     save_file({"fc.weight": np.ones((2, 3), np.float32)}, file)
      ...     [(keys, tensor.dtype, tensor.shape) for keys, tensor in read_tensors(file).items()]
      [(('fc.weight',), 'float32', (2, 3))]
    """
    data = path.read_bytes()
    if (path.suffix.lower() == ".safetensors" and not data) or re.match(rb".{8}\{", data, re.DOTALL):
        return _in_safetensors(data)
    try:
        if data.startswith(b"PK\x03\x04"):
            return _tensors_in(read_zip(data))
        if data.startswith(LEGACY_MAGIC):
            return _tensors_in(read_legacy(data))
        kinds = (told for start, told in _KINDS if re.match(start, data, re.DOTALL))
        unknown = f"no file of weights: it begins with {data[:12]!r}" if data else "an empty file"
        raise ValueError(next(kinds, unknown))
    except ValueError as error:
        raise ValueError(f"{error}{'' if 'expected' in str(error) else _EXPECTED}") from None


def _in_safetensors(data: bytes) -> Flat:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        told = str(error).strip().splitlines()[0]
        raise ValueError(f"cut off, or not a safetensors file ({told})") from None
    return {(name,): _stored(entry) for name, entry in entries}


def _stored(entry: dict[str, Any]) -> Stored:
    dtype, shape = SAFETENSORS.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"])
    if dtype not in READABLE:
        return Stored(dtype, shape, None)
    return Stored(dtype, shape, lambda: np.frombuffer(entry["data"], READABLE[dtype]).reshape(shape))


def _tensors_in(content: Any) -> Flat:
    found, of_optimizers = {}, list(_optimizers(content, ()))
    for keys, value in _leaves(content, ()):
        if isinstance(value, Inert) and value.path.startswith("torch._"):
            value = Stored(value.path, (), None)  # a tensor of a kind that is not read
        if isinstance(value, tuple | list):  # packed: a quantized weight and its bias
            value = next((part for part in value if isinstance(part, Stored) and part.read is None), value)
        if isinstance(value, Stored) and keys:
            found[keys] = value
    if not found and not of_optimizers:
        raise ValueError(_without_tensors(content))
    if all(any(keys[: len(at)] == at for at in of_optimizers) for keys in found):
        where = f" (under {'.'.join(of_optimizers[0])!r})" if of_optimizers[0] else ""
        raise ValueError(f"the state dict of an optimizer{where}, which has no weights of a network")
    return found


def _optimizers(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Where state dicts of optimizers lie."""
    if isinstance(content, dict) and len(keys) <= _DEEPEST:
        if set(content) >= _OPTIMIZER:
            yield keys
            return
        for key, value in content.items():
            yield from _optimizers(value, (*keys, str(key)))


def _leaves(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What lies in dicts of dicts, with its keys."""
    if not isinstance(content, dict) or (isinstance(content, Inert) and not content) or len(keys) > _DEEPEST:
        yield keys, content
        return
    for key, value in content.items():
        yield from _leaves(value, (*keys, str(key)))


def _without_tensors(content: Any) -> str:
    for keys, value in _leaves(content, ()):
        if isinstance(value, Inert) and isinstance(value.state, dict) and "_parameters" in value.state:
            where = f" (under {'.'.join(keys)!r})" if keys else ""
            return (
                f"a whole network, pickled as {value.path}{where}, which only its own code can load, not a state dict"
            )
    if isinstance(content, dict) and content and not isinstance(content, Inert):
        items = [f"{key}: {_kind(value)}" for key, value in content.items()]
        how = ", which safetensors.numpy.save_file would write" if "NumPy" in str(items) else ""
        return f"a dict without tensors, of {', '.join(items[:3])}{' ...' if items[3:] else ''}{how}"
    return f"expected a state dict of tensors, got a {_kind(content)}"


def _kind(value: Any) -> str:
    if isinstance(value, Inert):
        return "NumPy array" if re.match(r"numpy\..*(_reconstruct|_frombuffer)", value.path) else value.path
    return "Tensor" if isinstance(value, Stored) else type(value).__name__
