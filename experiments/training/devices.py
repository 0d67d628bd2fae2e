"""Which devices work on what: a mesh for one run or for several at once, and what is refused before anything runs."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.config.config import Config
from experiments.terminal import progress
from experiments.terminal.errors import UsageError
from rare_gems.training.sharding import make_mesh

__all__ = ["available", "check", "group_sizes", "mesh_for", "num_devices"]


def available() -> Sequence[jax.Device]:
    """All devices of this run, of all its processes."""
    return jax.devices()


def check(config: Config) -> None:
    """Refuses what these devices cannot do.

    Raises:
      UsageError: for more devices than there are, a batch that they cannot share, or bfloat16 where it does not work.
    """
    there, asked = len(available()), config.devices
    if asked is not None and asked > there:
        raise UsageError(f"--devices: expected at most {there}, which is all there are, got {asked}")
    if asked is not None and asked < there and jax.process_count() > 1:
        raise UsageError(f"--devices: a run of {jax.process_count()} processes uses all {there}, got {asked}")
    if (config.at_once or 1) > 1 and jax.process_count() > 1:
        raise UsageError(f"--at-once: {jax.process_count()} processes train one run at a time; expected 1")
    num = there if asked is None else asked
    many = max(config.num_seeds, config.at_once or 1) > 1 and jax.process_count() == 1
    if (asked or config.shard_params or jax.process_count() > 1) and not many and config.batch_size % num:
        near = round(config.batch_size / num) * num or num
        raise UsageError(
            f"--batch-size: expected a multiple of the {num} devices, such as {near}, got {config.batch_size}"
        )
    if config.shard_params and num == 1:
        raise UsageError("--shard-params: expected several devices to spread weights over, got 1")
    if config.precision == "bfloat16" and not _has_bfloat16(available()[0]):
        raise UsageError(f"--precision: {available()[0].device_kind} cannot compute in bfloat16; expected float32")


def _has_bfloat16(device: jax.Device) -> bool:
    """Tries whether the device computes in bfloat16, since no list of devices is complete."""
    one = jnp.ones((1, 4, 4, 1), jnp.bfloat16)
    dims = ("NHWC", "HWIO", "NHWC")
    try:
        with jax.default_device(device):
            total = jax.jit(lambda x: jax.lax.conv_general_dilated(x, x[0, :, :, :, None], (1, 1), "SAME",
                                                                   dimension_numbers=dims).sum())(one)  # fmt: skip
        return bool(jnp.isfinite(total))
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        return False


def mesh_for(config: Config, num_runs: int = 1, there: Sequence[jax.Device] | None = None) -> Mesh | None:
    """The mesh on which `num_runs` runs train at once; None for the default device.

    Runs are spread over the devices first. Where there are fewer runs than devices, each run's batches are shared out.

    Args:
      there: the devices, if not those of this run.
    Raises:
      UsageError: if a batch cannot be divided among the devices that were asked for.
    """
    devices = (available() if there is None else there)[: config.devices]
    if len(devices) == 1:
        return None
    runs = math.gcd(num_runs, len(devices))
    if config.batch_size % (len(devices) // runs):
        if config.devices is not None or jax.process_count() > 1:
            raise UsageError(
                f"--batch-size: expected a multiple of the {len(devices) // runs} devices of a run, got "
                f"{config.batch_size}"
            )
        progress.note(
            f"one device trains, of {len(devices)}: they cannot share batches of {config.batch_size} images equally"
        )
        return None
    return make_mesh(devices, runs=runs, model=len(devices) if config.shard_params else 1)


def num_devices(config: Config) -> int:
    """How many devices work for this configuration."""
    return 1 if config.devices == 1 else len(available()[: config.devices])


def group_sizes(config: Config, num_runs: int, most: int) -> list[int]:
    """How many runs of one program train at once, group after group.

    Args:
      most: that may train at once, 1 or more.
    Returns:
      sizes that sum to num_runs: on one device as equal as possible, on several multiples of their number, or, where
      fewer are left, divisors of it.
    Example:
      >>> group_sizes(Config("digits", devices=1), 10, 4)
      [4, 3, 3]
    """
    num = num_devices(config)
    if num == 1:
        number = -(-num_runs // most)
        return [num_runs // number + (i < num_runs % number) for i in range(number)]
    sizes: list[int] = []
    while (left := min(num_runs - sum(sizes), most)) > 0:
        sizes.append(left // num * num or max(d for d in range(1, num + 1) if num % d == 0 and d <= left))
    return sizes
