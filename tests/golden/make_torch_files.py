"""Makes torch_files.json: small files as torch.save writes them, and what torch itself finds in them.

Needs torch (2.13 was used) and shares no code with the library. Run `python tests/golden/make_torch_files.py`.
`files`: name -> the file. `tensors`: name -> {tensor: [shape, float32 numbers]}. `whole`: name -> the weights that
the layers of a network with weights in parts compute with. Bytes are compressed, and in base64.
"""

import argparse
import base64
import io
import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
OTHERS = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool")


class Calls:
    """An object whose pickle runs a command."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


def packed(data):
    return base64.b64encode(zlib.compress(data, 9)).decode()


def numbers(tensors):
    flat = {name: (list(t.shape), t.detach().to(torch.float32).numpy().tobytes()) for name, t in tensors.items()}
    return {name: [shape, packed(data)] for name, (shape, data) in flat.items()}


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def network():
    net = nn.Sequential(nn.Conv2d(2, 3, (1, 2)), nn.Linear(3, 4))
    nn.init.normal_(net[0].weight), nn.init.normal_(net[1].weight)
    return net


def split(change):
    """A network with weights in parts, and the whole ones."""
    net = network()
    for layer in net:
        change(layer)
    net.eval()
    net[0](torch.ones(1, 2, 2, 2)), net[1](torch.ones(1, 3))
    return net.state_dict(), {f"{i}.weight": layer.weight for i, layer in enumerate(net)}


def scaled_norm(layer, make, name, dim=0):
    make(layer, dim=dim)
    size = dict(layer.named_parameters())[name]
    size.data *= torch.arange(1, 1 + size.numel()).reshape(size.shape)


def pruned_and_normed(layer):
    weight_norm(layer)
    prune.l1_unstructured(layer, "weight_v", 0.5)


SPLITS = {
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "prune_structured": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "weight_norm": lambda layer: scaled_norm(layer, weight_norm, "weight_g"),
    "weight_norm_whole": lambda layer: scaled_norm(layer, weight_norm, "weight_g", None),
    "weight_norm_inputs": lambda layer: scaled_norm(layer, weight_norm, "weight_g", 1),
    "parametrized_weight_norm": lambda layer: scaled_norm(
        layer, parametrizations.weight_norm, "parametrizations.weight.original0"
    ),
    "spectral_norm": spectral_norm,
    "parametrized_spectral_norm": parametrizations.spectral_norm,
    "prune_of_weight_norm": pruned_and_normed,
}


def views():
    big = torch.arange(24.0).reshape(4, 6)
    with_state = nn.Parameter(torch.ones(1))
    with_state.tag = 1
    return {
        "transposed": big.t(), "part": big[1:3, ::2], "shared": big, "repeated": torch.ones(1).expand(3, 2),
        "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "parameter": nn.Parameter(torch.arange(2.0)),
        "with_state": with_state, "buffer": nn.Buffer(torch.ones(2)),
    }  # fmt: skip


def main():
    torch.manual_seed(0)
    files, tensors = {}, {}
    bits = torch.arange(256, dtype=torch.uint8)
    readable = {
        "views": views(),
        "float8": {name: bits.view(getattr(torch, name)) for name in FLOAT8},
        "dtypes": {name: torch.arange(3).to(getattr(torch, name)) for name in OTHERS},
    }
    for name, content in readable.items():
        tensors[name] = numbers(content)
        files[name] = saved(content)
        files[f"{name}_legacy"] = saved(content, _use_new_zipfile_serialization=False)
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    sum(parameter.sum() for parameter in net.parameters()).backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3, "args": argparse.Namespace(lr=0.1, layers=[1, 2]), "best": np.float64(0.5), "path": Path("x"),
        "state_dict": net.state_dict(), "optimizer": optimizer.state_dict(), "array": np.ones(3), "set": {1, 2},
    }  # fmt: skip
    tensors["checkpoint"] = numbers({f"state_dict.{name}": t for name, t in net.state_dict().items()})
    files["checkpoint"] = saved(checkpoint)
    whole = {}
    for name, change in SPLITS.items():
        state, weights = split(change)
        files[name], whole[name] = saved(state), numbers(weights)
    files["averaged"] = saved(torch.optim.swa_utils.AveragedModel(net).state_dict())
    files["strange"] = saved({
        "complex64": torch.ones(2, dtype=torch.complex64), "sparse": torch.ones(2, 2).to_sparse(),
        "csr": torch.ones(2, 2).to_sparse_csr(), "meta": torch.ones(2, device="meta"),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        "float4": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    })  # fmt: skip
    files["network"], files["network_within"] = saved(net), saved({"epoch": 1, "model": net})
    files["network_legacy"] = saved(net, _use_new_zipfile_serialization=False)
    files["calls"] = saved({"state_dict": net.state_dict(), "more": Calls()})
    files["list"], files["tensor"], files["nothing"] = saved({"w": [1, 2]}), saved(torch.ones(2)), saved({})
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), file)
    files["torchscript"] = file.getvalue()
    found = {"files": {name: packed(data) for name, data in files.items()}, "tensors": tensors, "whole": whole}
    path = Path(__file__).with_name("torch_files.json")
    path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
