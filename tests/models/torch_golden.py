"""What golden/make_torch_files.py stored: files of torch.save, and the numbers that torch finds in them."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np

_STORED = json.loads((Path(__file__).parents[1] / "golden" / "torch_files.json").read_text())


def stored_bytes(name):
    """The bytes of that file."""
    return _unpacked(_STORED["files"][name])


def written(folder, name, data=None):
    """The path of that file, or of one with those bytes."""
    path = folder / f"{name}.pt"
    path.write_bytes(stored_bytes(name) if data is None else data)
    return path


def _unpacked(text):
    return zlib.decompress(base64.b64decode(text))


def expected(kind, name):
    """The float32 numbers of each tensor; kind: "tensors", or "whole" for weights that the file has in parts."""
    return {
        tensor: np.frombuffer(_unpacked(data), np.float32).reshape(shape)
        for tensor, (shape, data) in _STORED[kind][name].items()
    }
