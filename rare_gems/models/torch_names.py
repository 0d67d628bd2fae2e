"""The names of PyTorch state dicts, translated into the key paths of our networks: pure functions of names."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

__all__ = ["RULES", "our_paths", "torch_name"]

_LEAVES = {  # the last part of torch's name, in a layer with a kernel and in a BatchNorm
    "weight": ("kernel", "scale"),
    "bias": ("bias", "bias"),
    "running_mean": ("mean", "mean"),
    "running_var": ("var", "var"),
}

# Inception's modules in network order, as torchvision names them.
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_MIXED = tuple(f"Mixed_{i}{letter}" for i, letters in ((5, "bcd"), (6, "abcde"), (7, "abc")) for letter in letters)

# A name may have several translations: the first that the network has is taken. Before, members of an nn.Sequential
# are numbered within their kind and the kind is appended (see `_numbered`): downsample.1 is downsample.0.bn here.
RULES = (
    (r"(.*)", r"\1"),
    (r"fc|classifier|(?:fc|linear|classifier)\.\d+\.(?:conv|dense)", "linear"),
    (r"(.*)\.(?:downsample|shortcut)\.0\.(conv|bn)", r"\1.downsample.\2"),
    # Wide ResNets
    (r"(.*)\.shortcut\.0\.conv", r"\1.shortcut"),
    (r"block(\d)\.layer\.(\d+)\.convShortcut", r"layer\1.\2.shortcut"),
    (r"block(\d)\.layer\.(\d+)\.(.*)", r"layer\1.\2.\3"),
    (r"bn", "bn1"),
    # MobileNetV2
    (r"layers\.(\d+)\.(?:downsample|shortcut)\.0\.(conv|bn)", r"layer1.\1.downsample.\2"),
    (r"layers\.(\d+)\.(.*)", r"layer1.\1.\2"),
    (r"(conv|bn)2", r"layer2.\1"),
    # VGG
    (r"features\.(\d+)\.(conv|bn)", r"layers.\1.\2"),
    # Conv-2, 4, 6 and LeNets; a LeNet may be one nn.Sequential
    (r"(convs|linear)\.(\d+)\.(?:conv|dense)", r"\1.\2"),
    (r"fc(\d)", r"linear\1"),
    *((rf"(?:\w+\.)?{i}\.dense", f"linear{i + 1}") for i in range(3)),
    # SqueezeNet
    (r"features\.0\.conv", "conv1"),
    (r"features\.(\d+)\.squeeze", r"fires.\1.conv1"),
    (r"features\.(\d+)\.expand1x1", r"fires.\1.conv2"),
    (r"features\.(\d+)\.expand3x3", r"fires.\1.conv3"),
    (r"classifier\.0\.conv", "head"),
    # Inception
    *((rf"{name}\.(.*)", rf"conv.{i}.\1") for i, name in enumerate(_STEM)),
    *((rf"{name}\.(.*)", rf"inception.{i}.\1") for i, name in enumerate(_MIXED)),
)


def our_paths(shapes: Mapping[str, Sequence[int]], ours: Collection[str]) -> dict[str, str]:
    """The key path in one of our networks for each tensor of a state dict.

    Args:
      shapes: the tensors' shapes by their names in torch, without a prefix such as "module.".
      ours: the paths of the network's params and state, such as "layer1/0/bn1/mean".

    Returns:
      Torch name -> path, without the names of modules that the network does not have. A path may be missing in `ours`
      where the network has the module, but not with that tensor (no bias, say); two names may have one path.

    Example:
      >>> shapes = {"features.0.weight": (4, 3, 3, 3), "features.1.running_var": (4,), "fc.weight": (2, 4), "n": ()}
      >>> our_paths(shapes, ["layers/0/bn/var", "layers/0/conv/kernel", "linear/kernel"])
      {'features.0.weight': 'layers/0/conv/kernel', 'features.1.running_var': 'layers/0/bn/var', \
'fc.weight': 'linear/kernel'}
    """
    modules: dict[str, dict[str, int]] = defaultdict(dict)
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        modules[module][leaf] = len(shape)
    known = {path.rpartition("/")[0] for path in ours}
    paths = {}
    for module, numbered in _numbered(modules).items():
        path = next((p for p in _translations(numbered) if p in known), None)
        for leaf in modules[module] if path is not None else ():
            if leaf in _LEAVES:
                # A BatchNorm has statistics; all else has a kernel.
                paths[f"{module}.{leaf}"] = f"{path}/{_LEAVES[leaf][f'{path}/mean' in ours]}"
    return {name: paths[name] for name in shapes if name in paths}


def torch_name(path: str) -> str:
    """The name in a state dict that `our_paths` takes for a path as it is: that of most networks.

    Example:
      >>> torch_name("layer1/0/bn1/var")
      'layer1.0.bn1.running_var'
    """
    module, _, leaf = path.rpartition("/")
    leaf = {ours: torch for torch, both in _LEAVES.items() for ours in both}[leaf]
    return f"{module.replace('/', '.')}.{leaf}"


def _translations(name: str) -> list[str]:
    matches = [(re.fullmatch(pattern, name), template) for pattern, template in RULES]
    return [match.expand(template).replace(".", "/") for match, template in matches if match]


def _numbered(modules: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """Numbers that count modules of one kind, in place of the gaps that an nn.Sequential has for its other members."""
    parts, members = {}, defaultdict(set)
    for name, leaves in modules.items():
        # A member of any nn.Sequential, or what lies inside of a member of `features`.
        match = re.fullmatch(r"((?:.*\.)?)(\d+)", name) or re.fullmatch(r"(features\.)(\d+)\.(.+)", name)
        if match:
            inside = match.groups()[2:]
            kind = {4: "conv", 2: "dense"}.get(leaves.get("weight", 1), "bn")
            group = match[1], "" if inside else kind
            parts[name] = group, int(match[2]), inside[0] if inside else kind
            members[group].add(int(match[2]))
    numbers = {group: {index: i for i, index in enumerate(sorted(found))} for group, found in members.items()}
    numbered = {name: f"{g[0]}{numbers[g][index]}.{rest}" for name, (g, index, rest) in parts.items()}
    return {name: numbered.get(name, name) for name in modules}
