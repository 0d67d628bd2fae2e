"""Whether a compiled program fits into the memory of a device, by how much it does not, and what may help."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.compiled.kinds import Target
from experiments.config.config import Config
from experiments.training.memory import spell

__all__ = ["Fit", "advice", "fit_of", "told"]


class Fit(NamedTuple):
    """Bytes that training takes of a device (None: the compiler did not say), and that it may have."""

    needed: int | None
    usable: int

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needed is not None and self.needed <= self.usable


def fit_of(answer: Mapping[str, Any], target: Target) -> Fit | None:
    """What an answer of `apart.compile_apart` says of memory; None where it says nothing.

    needed = the compiled program + what a run holds beside it (its start, the ticket found, the best weights, test
    images); where the compiler itself refused, what it says the program alone needs.
    """
    if "program_bytes" in answer:
        return Fit(answer["program_bytes"] + answer["held_bytes"], target.kind.usable)
    return Fit(answer["needed_bytes"], target.kind.usable) if "needed_bytes" in answer else None


def advice(config: Config, target: Target, runs: int) -> list[str]:
    """The flags that make a run smaller and are not given yet.

    Example:
      >>> from experiments.compiled.kinds import parse_target
      >>> advice(Config("digits", batch_size=64, precision="bfloat16"), parse_target("v5e:2x2"), 8)
      ['--at-once below 8', '--batch-size below 64']
    """
    num = config.devices or target.num_devices
    flags = [f"--at-once below {runs}"] if runs > 1 else []
    flags += [f"--batch-size below {config.batch_size}"] if config.batch_size > num else []
    flags += ["--precision=bfloat16"] if config.precision == "float32" else []
    if num > 1 and runs == 1 and not config.shard_params:
        flags.append("--shard-params")
    return flags + ([] if num > 1 else ["several devices"])


def told(fit: Fit, config: Config, target: Target, runs: int) -> str:
    """In words.

    Example:
      >>> from experiments.compiled.kinds import parse_target
      >>> told(Fit(20 * 2**30, 15 * 2**30), Config("digits"), parse_target("v5e:2x2"), 1).partition(";")[0]
      'needs 20.00 GiB of a device, 5.00 GiB more than the 15.00 GiB there are'
    """
    assert fit.needed is not None
    need = f"needs {spell(fit.needed)} of a device"
    if fit.fits:
        return f"{need}, {100 * fit.needed / fit.usable:.1f} % of the {spell(fit.usable)} there are"
    helpful = ", ".join(advice(config, target, runs))
    more = f"{spell(fit.needed - fit.usable)} more than the {spell(fit.usable)} there are"
    return f"{need}, {more}; what may help: {helpful}"
