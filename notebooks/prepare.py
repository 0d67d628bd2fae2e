"""Prepares the machine that a notebook runs on, and runs the commands in its process. The first cell imports it."""

import importlib
import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

__all__ = ["command", "prepare"]

_NEWER = "take a newer runtime, or install a newer JAX for this device yourself and restart"


def prepare(root: Path) -> None:
    """Installs what is missing beside the JAX that is there, and says what the notebook runs on.

    An installed JAX is never changed: another one may not know the machine's TPU or GPU.

    Args:
      root: the clone; its pyproject.toml says what is needed.
    Raises:
      SystemExit: in one line, if the JAX here is too old, if pip fails, or if the session has to be restarted.
    """
    wanted = requirements(tomllib.loads((root / "pyproject.toml").read_text())["project"], "experiments")
    for requirement in wanted:
        name = _name(requirement)
        if name in ("jax", "jaxlib") and (there := _version(name)) and not satisfied(requirement):
            raise SystemExit(f"{name} {there} is too old: expected {requirement}; it is left as it is: {_NEWER}")
    if missing := [requirement for requirement in wanted if not satisfied(requirement)]:
        print(f"installing {', '.join(map(_name, missing))}")
        _install(missing)
    if "rare_gems" in sys.modules and not getattr(sys.modules["rare_gems"], "__file__", None):
        del sys.modules["rare_gems"]  # the clone's folder, imported before its path was known: nothing is in it
    _say_device()


def requirements(project: dict, extra: str) -> list[str]:
    """The requirements of a project and of one of its extras, with those of the extras that it names.

    Example:
      >>> requirements({"name": "a", "dependencies": ["b>=1"], "optional-dependencies": {"c": ["d>=2", "a[e]"],
      ...     "e": ["f>=3"]}}, "c")
      ['b>=1', 'd>=2', 'f>=3']
    """
    found, extras = list(project["dependencies"]), [extra]
    for each in extras:
        for requirement in project["optional-dependencies"][each]:
            own = re.fullmatch(rf"{project['name']}\[(.*)\]", requirement)
            extras.extend(own[1].split(",")) if own else found.append(requirement)
    return list(dict.fromkeys(found))


def satisfied(requirement: str) -> bool:
    """Whether the package of `name>=1.2.3` is here, in that version or a later one."""
    name, _, bound = requirement.partition(">=")
    there = _version(name)
    return there is not None and _numbers(there) >= _numbers(bound)


def command(line: str) -> None:
    """Runs `python -m experiments LINE` in this process, since a TPU belongs to one process.

    Raises:
      SystemExit: if the command does not end well; it has told why.
    """
    from experiments.commands.program import run

    name, *flags = shlex.split(line)
    if status := run(name, flags):
        raise SystemExit(f"{name}: ended with status {status}")


def _install(missing: list[str]) -> None:
    before = _loaded()
    pinned = [d for d in importlib.metadata.distributions() if re.match(r"(jax|libtpu)", d.name or "")]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{d.name}=={d.version}\n" for d in pinned))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", f"--constraint={constraints}", *missing]
        done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip failed: {' '.join(done.stderr.split())[-600:]}")
    importlib.invalidate_caches()
    if changed := [name for name, version in before.items() if _version(name) != version]:
        raise SystemExit(f"{', '.join(changed)} changed under this session: restart it and run from the top")


def _loaded() -> dict[str, str | None]:
    """The versions of the packages that this process has imported."""
    packages = importlib.metadata.packages_distributions()
    names = {name for top in list(sys.modules) for name in packages.get(top, ())}
    return {name: _version(name) for name in sorted(names)}


def _say_device() -> None:
    import jax

    devices, here = jax.devices(), "Colab" if "google.colab" in sys.modules else "this machine"
    print(f"JAX {jax.__version__} on {here}: {len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    if devices[0].platform == "cpu":
        if shutil.which("nvidia-smi"):
            print("There is an NVIDIA GPU that this JAX does not use: pip install 'jax[cuda13]'")
        elif any(Path("/dev").glob("accel*")) or Path("/dev/vfio/0").exists():
            print("There may be a TPU that this JAX does not use: pip install 'jax[tpu]'")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name.partition("[")[0])
    except importlib.metadata.PackageNotFoundError:
        return None


def _name(requirement: str) -> str:
    return requirement.partition(">=")[0]


def _numbers(version: str) -> tuple[int, ...]:
    """Of 0.10.0rc1: (0, 10, 0); zeros at the end do not count."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
