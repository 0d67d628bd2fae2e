"""The compilers of TPUs and NVIDIA GPUs, which run without a device: whether they are there, and how they are asked."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from jax.experimental import topologies

from experiments.compiled.kinds import Kind, Target
from experiments.terminal.errors import UsageError

__all__ = ["check_installed", "devices_of", "environment", "gpu_config"]

# The modules of which one has to be there, and the extra that brings them.
_NEEDED = {
    "tpu": (("libtpu",), "compile-tpu"),
    "cuda": (("jax_cuda12_plugin", "jax_cuda13_plugin"), "compile-gpu"),
}


def check_installed(target: Target) -> None:
    """Raises UsageError, with the pip command, where the compiler of these devices is not installed."""
    modules, extra = _NEEDED[target.kind.platform]
    if any(importlib.util.find_spec(name) for name in modules):
        return
    what = {"tpu": "libtpu", "cuda": "JAX's CUDA plugin, 5.6 GB with its libraries"}[target.kind.platform]
    raise UsageError(
        f"--for={target.text}: the compiler for {target.kind.title} is not installed ({what}); expected "
        f"pip install -e '.[{extra}]', best in an environment of its own"
    )


def environment(target: Target, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that compiles for devices that are not there: it computes on the CPU only.

    Example:
      >>> from experiments.compiled.kinds import parse_target
      >>> environment(parse_target("v5e:2x2"), {})["JAX_PLATFORMS"]
      'cpu'
    """
    left_out = ("JAX_COMPILATION_CACHE_DIR", "RARE_GEMS_ONEDNN", "TPU_NAME")
    made = {name: value for name, value in given.items() if name not in left_out}
    made |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if target.kind.platform == "tpu":  # otherwise libtpu asks the machines of Google's cloud what it runs on
        made |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
                 "TPU_ACCELERATOR_TYPE": "v5litepod-8"}  # fmt: skip
    else:  # ptxas
        made["PATH"] = os.pathsep.join([*_tools(), made.get("PATH", "")])
    return made


def _tools() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations if spec else None) or ()]
    return [str(path.parent) for root in roots for path in sorted(root.glob("*/bin/ptxas"))]


def devices_of(target: Target) -> Sequence[jax.Device]:
    """The devices as JAX sees them: to lay arrays on and compile for, not to run on."""
    if target.kind.platform == "tpu":
        name = f"{target.kind.name}:{'x'.join(map(str, target.topology))}"
        options = {} if target.num_devices > 1 else {"chips_per_host_bounds": (1, 1, 1)}
        return topologies.get_topology_desc(name, platform="tpu", **options).devices
    described = {"target_config": gpu_config(target.kind), "topology": f"1x1x{target.num_devices}"}
    return topologies.get_topology_desc(target.kind.name, platform="cuda", **described).devices


def gpu_config(kind: Kind) -> str:
    """What XLA wants to know of a GPU, as text of its GpuTargetConfigProto.

    Example:
      >>> from experiments.compiled.kinds import KINDS
      >>> [line for line in gpu_config(KINDS["h200"]).splitlines() if "core_count" in line]
      ['  core_count: 132']
    """
    gpu = {name: int(value) for name, value in kind.gpu.items()}
    newest = "  feature_extension: ACCELERATED_FEATURES" if gpu["major"] >= 9 else ""
    shared = {75: 64, 80: 164, 89: 100, 90: 228}[10 * gpu["major"] + gpu["minor"]]  # KiB, CUDA's programming guide
    lines = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": shared * 1024,
        "threads_per_core_limit": 1024 if gpu["major"] < 8 else 1536 if gpu["minor"] == 9 else 2048,
        "core_count": gpu["core_count"],
        "fpus_per_core": 128 if gpu["minor"] == 9 or gpu["major"] > 8 else 64,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": gpu["memory_bandwidth"],
        "l2_cache_size": gpu["l2"],
        "clock_rate_ghz": 1.6,
        "device_memory_size": kind.memory,
        "shared_memory_per_block_optin": (shared - (0 if gpu["major"] < 8 else 1)) * 1024,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    told = "\n".join(f"  {name}: {value}" for name, value in lines.items())
    return (f"gpu_device_info {{\n{told}\n  cuda_compute_capability {{ major: {gpu['major']} minor: {gpu['minor']}"
            f"{newest} }}\n}}\nplatform_name: \"CUDA\"\ndnn_version_info {{ major: 9 minor: 8 }}\n"
            f'device_description_str: "NVIDIA {kind.title}"\n')  # fmt: skip
