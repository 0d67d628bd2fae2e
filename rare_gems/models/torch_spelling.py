"""The names that our networks' PyTorch counterparts have: the table of `torch_names` read backwards."""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from rare_gems.models.torch_names import RULES, our_paths, torch_name

__all__ = ["COUNTERPARTS", "Counterpart", "check_names", "counterpart_of", "torch_names"]


class Counterpart(NamedTuple):
    """A network of PyTorch's. whose: whose names it has. words: a regular expression of the words in them that ours do
    not have, or that stay. members: of each nn.Sequential what it holds: c a convolution, b a BatchNorm, d a dense
    layer, f a fire module, - what has no tensors."""

    whose: str
    words: str
    members: Mapping[str, str] = {}


_CIFAR, _TORCHVISION = "the CIFAR repositories", "torchvision"
_CIFAR_RESNET = Counterpart(_CIFAR, "linear|shortcut", {"shortcut": "cb"})
_RESNET = Counterpart(_TORCHVISION, "fc|downsample", {"downsample": "cb"})


def _vgg(*stages: int) -> Counterpart:
    return Counterpart(_CIFAR, "features|classifier", {"features": "".join("cb-" * n + "-" for n in stages)})


def _conv_net(pairs: int) -> Counterpart:
    return Counterpart("one nn.Sequential each", "convs|linear", {"convs": "c-c--" * pairs, "linear": "d-d-d"})


# By the name of our network, and by the size of its first convolution where that decides.
COUNTERPARTS: dict[tuple[str, int | None], Counterpart] = {
    **{(name, None): _CIFAR_RESNET for name in ("resnet20", "resnet32")},
    **{(name, size): found for name in ("resnet18", "resnet50") for size, found in ((3, _CIFAR_RESNET), (7, _RESNET))},
    ("vgg16", None): _vgg(2, 2, 3, 3, 3),
    ("vgg19", None): _vgg(2, 2, 4, 4, 4),
    ("mobilenet_v2", None): Counterpart(_CIFAR, "layers|shortcut|linear|(conv|bn)2", {"shortcut": "cb"}),
    ("wide_resnet28_2", None): Counterpart(_CIFAR, r"block\d|layer|convShortcut|fc"),
    **{(f"conv{2 * pairs}", None): _conv_net(pairs) for pairs in (1, 2, 3)},
    **{(name, None): Counterpart("the usual layers", r"fc\d") for name in ("lenet_300_100", "lenet_5")},
    ("squeezenet", 3): Counterpart(
        _TORCHVISION, r"features|squeeze|expand\dx\d|classifier", {"features": "c--ff-ff-ffff", "classifier": "-c"}
    ),
    ("squeezenet", 7): Counterpart(
        _TORCHVISION, r"features|squeeze|expand\dx\d|classifier", {"features": "c--fff-ffff-f", "classifier": "-c"}
    ),
    ("inception_v3", None): Counterpart(_TORCHVISION, "Conv2d_.*|Mixed_.*|fc"),
}


def counterpart_of(network: str, shapes: Mapping[str, Sequence[int]]) -> Counterpart:
    """The counterpart of a network of ours in PyTorch.

    Args:
      network: its name, as of `--model`. shapes: of its params, by path.

    Raises:
      ValueError: for a network without one.

    Example:
      >>> counterpart_of("resnet18", {"conv1/kernel": (7, 7, 3, 64)}).whose
      'torchvision'
    """
    size = shapes.get("conv1/kernel", (None,))[0]
    for key in ((network, size), (network, None)):
        if key in COUNTERPARTS:
            return COUNTERPARTS[key]
    known = ", ".join(dict.fromkeys(name for name, _ in COUNTERPARTS))
    raise ValueError(f"expected a network with a counterpart in PyTorch, one of {known}, got {network}")


def torch_names(network: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The name in the state dict of the counterpart for each path of one of our networks.

    Args:
      network: its name. shapes: of all leaves of its params and state, by path.

    Returns:
      Path -> name. `our_paths` takes the names back to the paths.

    Raises:
      ValueError: for a network without a counterpart, and for leaves that are not those of the network.

    Example:
      >>> torch_names("vgg16", {"layers/2/bn/mean": (8,), "layers/2/conv/kernel": (3, 3, 4, 8), "linear/bias": (2,)})
      {'layers/2/bn/mean': 'features.8.running_mean', 'layers/2/conv/kernel': 'features.7.weight', \
'linear/bias': 'classifier.bias'}
    """
    found = counterpart_of(network, shapes)
    names = {}
    for path in shapes:
        module, _, leaf = torch_name(path).rpartition(".")
        kernel = shapes.get(f"{path.rpartition('/')[0]}/kernel", ())
        kind = {4: "conv", 2: "dense"}.get(len(kernel), "bn")
        names[path] = f"{_spelled(module, kind, found)}.{leaf}"
    return names


def _spelled(module: str, kind: str, counterpart: Counterpart) -> str:
    """A module of ours as the counterpart calls it: by the rule that brings in most of its words."""
    words = re.compile(counterpart.words)

    def known(name: str) -> int | None:
        """How many of the counterpart's words a name has; None if it has others that are not ours."""
        parts = re.sub(rf"(\.\d+)\.{kind}$", r"\1", name).split(".")
        strange = {part for part in parts if not part.isdecimal()} - set(module.split("."))
        if any(not words.fullmatch(part) for part in strange):
            return None
        return sum(bool(words.fullmatch(part)) for part in parts)

    counts = [(known(name), i, name) for i, name in enumerate(_candidates(module))]
    names = [(count, i, name) for count, i, name in counts if count or (count == 0 and i == 0)]
    _, i, name = max(names)
    return _with_gaps(name, counterpart.members) if i else name


def _candidates(module: str) -> Iterator[str]:
    """What the rules translate into a module of ours, numbered as they number; itself first."""
    for pattern, template in RULES:
        ours = re.sub(r"\\\\(\d)", r"(?P<g\1>.+)", re.escape(template))
        if not (match := re.fullmatch(ours, module)):
            continue
        for text in _spellings(pattern):
            name = re.sub(r"\{(\d)\}", lambda number, match=match: match[f"g{number[1]}"], text)
            if re.fullmatch(pattern, name):
                yield name


def _spellings(pattern: str) -> Iterator[str]:
    """The names that a pattern of the rules matches, its groups as {1} and {2}; what is optional is left out.

    Those that leave something open besides the groups are not spelled.
    """
    pattern = re.sub(r"\(\?:[^()]*\)\?", "", pattern)
    numbers = itertools.count(1)
    pattern = re.sub(r"\((?!\?)[^()]*\)", lambda _: f"{{{next(numbers)}}}", pattern)
    for one in re.split(r"\|(?![^(]*\))", pattern):
        parts = re.split(r"\(\?:([^()]*)\)", one)
        for words in itertools.product(*(part.split("|") for part in parts)):
            name = "".join(words).replace(r"\.", ".")
            if "\\" not in name:
                yield name


def _with_gaps(name: str, members: Mapping[str, str]) -> str:
    """The numbers of an nn.Sequential, in place of those that count modules of one kind."""
    match = re.fullmatch(r"((?:.*\.)?(\w+))\.(\d+)\.(conv|bn|dense|squeeze|expand\dx\d)", name)
    if not match or match[2] not in members:
        return name
    group, sequential, number, last = match.groups()
    inside = last not in ("conv", "bn", "dense")
    places = [i for i, member in enumerate(members[sequential]) if member == ("f" if inside else last[0])]
    if int(number) >= len(places):
        raise ValueError(f"expected {len(places)} modules in {group}, got number {int(number) + 1}")
    return f"{group}.{places[int(number)]}" + (f".{last}" if inside else "")


def check_names(names: Mapping[str, str], shapes: Mapping[str, Sequence[int]], ours: Collection[str]) -> None:
    """Raises ValueError unless `our_paths` takes each name back to its path. shapes: by name, as in torch."""
    back = our_paths(shapes, ours)
    strange = [name for path, name in names.items() if back.get(name) != path]
    if strange:
        raise ValueError(f"expected names that are read back, got {strange[0]} for {back.get(strange[0])}")
