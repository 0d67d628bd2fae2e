"""The state dict of a network among all that a file holds: found by the names that the network expects."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from rare_gems.models.torch_files import Flat
from rare_gems.models.torch_names import our_paths
from rare_gems.models.torch_reparametrized import whole_weights
from rare_gems.models.torch_tensors import Stored

__all__ = ["Found", "cut", "find_state_dict"]

# Modules that wrap another, wherever: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPING = re.compile(r"module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module")
# Not of the network: counters of BatchNorm, of averaging and of profilers, Inception's second classifier, the loss.
_SILENT = re.compile(r"(.*\.)?(num_batches_tracked|n_averaged)|(.*\.)?AuxLogits\..*")
_TOLD = re.compile(r"(.*\.)?(total_ops|total_params)|(.*\.)?(criterion|loss|loss_fn|loss_func|loss_function)\..*")
_USUAL = re.compile(r"((state_dict|model_state_dict|model|network|net|weights)\.)*")
_AVERAGED = re.compile(r"(.*[._])?(ema|swa|avg|averaged?)([._].*)?")
_SHOWN = 5  # names of each kind in a message


class Found(NamedTuple):
    """tensors, paths: by the file's name, what was found of the network, and the path of each. masks: by the same
    names. unexpected: names beside them that the network does not have. notes: what should be told."""

    tensors: dict[str, Stored]
    paths: dict[str, str]
    masks: dict[str, Stored]
    unexpected: list[str]
    notes: list[str]


class _Part(NamedTuple):
    """What lies under a prefix: the paths of its names, and how many of the network's these are."""

    prefix: str
    paths: dict[str, str]
    size: int


def find_state_dict(flat: Flat, ours: Collection[str], allow_unexpected: re.Pattern[str] | None = None) -> Found:
    """The tensors under the prefix whose names, without it, are most of the network's.

    Args:
      flat: the file's tensors by their keys. A prefix is any beginning that ends with a dot, once the keys are joined
        by dots and modules that only wrap another (`module`, `_orig_mod`, ...) are left out. Weights in parts are made
        whole first. What the prefix lacks is looked for under the beginnings of the prefix.
      ours: the paths of the network's params and state.
      allow_unexpected: of parts that do equally well, one all of whose names it is found in is not taken.

    Returns:
      What was found. Of prefixes that do equally well the usual ones ("state_dict.", "model.") go before others, and
      averages ("ema.", "swa_model.") come last. Unexpected is what lies in the same dicts of the file as what was
      found, but for known buffers (counters, losses) and averages.

    Raises:
      ValueError: if two parts would do equally well.

    Example:
      >>> tensors = {("state_dict", f"net.{name}"): Stored("float32", (2, 2), None) for name in ("fc.weight", "odd")}
      >>> find_state_dict(tensors, ["linear/kernel"]).paths, find_state_dict(tensors, ["linear/kernel"]).unexpected
      ({'state_dict.net.fc.weight': 'linear/kernel'}, ['state_dict.net.odd'])
    """
    names, doubled = _cleaned(flat)
    whole = whole_weights({name: flat[keys] for name, keys in names.items()})
    keys = {name: [names[part] for part in whole.parts.get(name, (name,))] for name in sorted(whole.tensors)}
    told = {name: ".".join(_of_whole(name, at) if name in whole.parts else at[0]) for name, at in keys.items()}
    known = {name: whole.tensors[name] for name in keys if not (_SILENT.fullmatch(name) or _TOLD.fullmatch(name))}

    part, notes = _best(known, ours, told, allow_unexpected)
    paths = _with_ancestors(part, known, ours)
    dicts = {at[:-1] for name in paths for at in keys[name]}
    beside = [name for name in keys if not paths or any(at[:-1] in dicts for at in keys[name])]
    averages = _averages(part, paths, [name for name in beside if name in known and name not in paths])
    groups = {
        "of a profiler or a loss": [told[name] for name in beside if _TOLD.fullmatch(name)],
        "averages": [] if notes else [told[name] for name in averages],
    }
    notes += [f"left out: {cut(group)} ({kind})" for kind, group in groups.items() if group]
    for kind in ("weight norm", "spectral norm"):
        normed = [told[name] for name in paths if whole.kinds.get(name) == kind]
        notes += [f"{kind} is worked into {cut(normed)}"] if normed else []
    unexpected = [told[name] for name in beside if name in known and name not in paths and name not in averages]
    return Found(
        tensors={told[name]: known[name] for name in beside if name in known},
        paths={told[name]: path for name, path in paths.items()},
        masks={told[name]: whole.masks[name] for name in paths if name in whole.masks},
        unexpected=sorted(unexpected + [".".join(at) for at in doubled if at[:-1] in dicts]),
        notes=notes,
    )


def cut(names: Iterable[str]) -> str:
    """The first few names, and how many more there are.

    Example:
      >>> cut("abcdefg")
      'a, b, c, d, e and 2 more'
    """
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _cleaned(flat: Flat) -> tuple[dict[str, tuple[str, ...]], list[tuple[str, ...]]]:
    """The keys of each tensor by its name without wrapping modules, and those whose name there is already."""
    names, doubled = {}, []
    for keys in flat:
        parts = [part for key in keys for part in key.split(".") if not _WRAPPING.fullmatch(part)]
        name = ".".join(parts)
        if name in names or not name:
            doubled.append(keys)
        else:
            names[name] = keys
    return names, doubled


def _of_whole(name: str, parts: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The keys in the file, had its parts been there as one."""
    *outer, last = parts[0]
    module = re.sub(r"(^|\.)(parametrizations\.[^.]+\.original\d?|[^.]+)$", "", last)
    return *outer, f"{module}.{name.rpartition('.')[2]}" if module else name.rpartition(".")[2]


def _best(
    known: Mapping[str, Stored], ours: Collection[str], told: Mapping[str, str], allowed: re.Pattern[str] | None
) -> tuple[_Part, list[str]]:
    """The part to take, and notes."""
    apart = _largest(known, ours)
    if not apart:
        return _Part("", {}, 0), []
    kept = [part for part in apart if not (allowed and all(allowed.search(told[name]) for name in part.paths))]
    apart = kept or apart
    ranks = [2 if _AVERAGED.fullmatch(part.prefix) else 1 - bool(_USUAL.fullmatch(part.prefix)) for part in apart]
    first = [part for part, rank in zip(apart, ranks, strict=True) if rank == min(ranks)]
    if len(first) > 1:
        both = " and ".join(repr(part.prefix) for part in first[:2])
        got = f"expected one network, got {len(first)}, under {both}"
        raise ValueError(f"{got}; try allow_unexpected= for what to leave out")
    notes = [f"the weights are the averaged ones under {first[0].prefix!r}"] if min(ranks) == 2 else []
    if left := [repr(part.prefix) for part in apart if part is not first[0]]:
        notes = [f"the weights are those under {first[0].prefix!r}, not those under {cut(left)}"]
    return first[0], notes


def _largest(known: Mapping[str, Stored], ours: Collection[str]) -> list[_Part]:
    """The parts that have most of the network's names, none under the prefix of another."""
    under: dict[str, list[str]] = {"": []}
    for name in known:
        for end in (0, *(match.end() for match in re.finditer(r"\.", name))):
            under.setdefault(name[:end], []).append(name)
    best: list[_Part] = []
    for prefix in sorted(under, key=lambda prefix: (-len(under[prefix]), len(prefix))):
        size = best[0].size if best else 1
        if len(under[prefix]) < size:  # as for all that follow
            break
        part = _part(prefix, under[prefix], known, ours)
        if part.size >= size:
            best = [*(best if part.size == size else []), part]
    fewest = min((len(part.paths) for part in best), default=0)  # more: several tensors for one place
    best = sorted((part for part in best if len(part.paths) == fewest), key=lambda part: len(part.prefix))
    return [part for part in best if not any(part.prefix.startswith(p.prefix) for p in best if p is not part)]


def _averages(part: _Part, paths: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Those of the names that are found names under the prefix of an average."""
    found = {name[len(part.prefix) :] for name in paths}
    ends = {name: [match.end() for match in re.finditer(r"\.", name)] for name in names}
    return [
        name for name in names
        if any(name[end:] in found and _AVERAGED.fullmatch(name[:end]) for end in ends[name])
    ]  # fmt: skip


def _part(prefix: str, names: Iterable[str], known: Mapping[str, Stored], ours: Collection[str]) -> _Part:
    found = our_paths({name[len(prefix) :]: known[name].shape for name in names}, ours)
    return _Part(prefix, {prefix + name: path for name, path in found.items()}, len(set(found.values()) & set(ours)))


def _with_ancestors(part: _Part, known: Mapping[str, Stored], ours: Collection[str]) -> dict[str, str]:
    """The paths of a part, and of what it lacks: a classifier beside `backbone.`, say."""
    paths, prefix = dict(part.paths), part.prefix
    while prefix and part.size:
        prefix = prefix[: prefix[:-1].rfind(".") + 1]
        there = {path.rpartition("/")[0] for path in paths.values()}
        beside = [name for name in known if name.startswith(prefix) and not name.startswith(part.prefix)]
        more = _part(prefix, beside, known, ours).paths
        paths |= {name: path for name, path in more.items() if path.rpartition("/")[0] not in there}
    return paths
