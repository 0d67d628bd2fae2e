"""--dry-run --for=KIND: whether a run fits on devices that are not there, found out by compiling it for them."""

from collections.abc import Sequence

from rich.console import Console

from experiments.compiled.apart import Request, compile_apart
from experiments.compiled.compilers import check_installed
from experiments.compiled.fit import fit_of, told
from experiments.compiled.kinds import Target, parse_target
from experiments.compiled.program import check_divides, phases_of
from experiments.config.config import Config
from experiments.terminal.errors import RunFailed, UsageError
from experiments.training import grouping, memory

__all__ = ["check_target", "print_fit", "print_fits", "runs_at_once"]

_TIMEOUT = 3600.0  # seconds


def check_target(configs: Sequence[Config], text: str, runs: int = 1) -> Target:
    """The devices of `--for`, once all configurations can be spread over them and their compiler is there.

    Raises:
      UsageError: for what is unknown, cannot be divided, or is not installed.
    """
    target = parse_target(text)
    for config in configs:
        check_divides(config, target.text, target.num_devices, runs)
    check_installed(target)
    return target


def runs_at_once(config: Config, num_runs: int) -> int:
    """How many of `num_runs` runs train at once on an accelerator, if they fit."""
    if config.at_once is not None:
        return min(config.at_once, num_runs)
    return 1 if grouping.trains_alone(config) else max(1, num_runs)


def print_fit(console: Console, config: Config, target: Target, runs: int = 1) -> None:
    """Compiles a step of the search and one of the finetuning, and says what they need of a device.

    Raises:
      UsageError: for a run that does not fit: by how much, and what may help.
      RunFailed: where the compiler failed.
    """
    kind, num = target.kind, config.devices or target.num_devices
    devices = f"{num} x {kind.title}" if num > 1 else f"one {kind.title}"
    console.print(f"--for={target.text}: {devices}, {memory.spell(kind.usable)} each to use; compiled, not run",
                  soft_wrap=True)  # fmt: skip
    several = f" of {runs} runs at once" if runs > 1 else ""
    for name in phases_of(config):
        where = f"{name}, a step of {config.batch_size} images{several}"
        answer = compile_apart(Request(config, target, name, runs), _TIMEOUT)
        fit = fit_of(answer, target)
        if fit is None:
            raise RunFailed(f"--for={target.text}: {where} does not compile: {answer['error']}")
        if not fit.fits:
            raise UsageError(f"--for={target.text}: {where} {told(fit, config, target, runs)}")
        seconds = answer["compile_seconds"] + answer["trace_seconds"]
        console.print(f"{where}: {told(fit, config, target, runs)} (compiled in {seconds:.0f} s)", soft_wrap=True)
    console.print("it fits")


def print_fits(console: Console, configs: Sequence[Config], text: str) -> None:
    """`print_fit` for one run of each method, network and batch size, which seeds and sparsities share.

    Raises:
      UsageError, RunFailed: as `check_target` and `print_fit`.
    """
    target = check_target(configs, text)
    first: dict[tuple[str, ...], Config] = {}
    for config in configs:
        first.setdefault((config.pruner, config.model, config.precision, str(config.batch_size)), config)
    for (pruner, *_), config in first.items():
        console.print(f"{pruner}:")
        print_fit(console, config, target)
