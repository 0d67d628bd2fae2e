"""What the names of leaves, their parents and their classes tell: words of Flax, Haiku, Equinox, PyTorch and papers."""

import functools
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import TypeVar

import jax

__all__ = [
    "NEVER", "by_name", "is_norm", "is_norm_class", "is_norm_weight", "is_positional", "is_state", "is_table",
    "kind_of", "last_of", "partner_of", "parts_of", "path_name", "pattern_of", "stem_of",
]  # fmt: skip

Parts = tuple[str, ...]
Item = TypeVar("Item")

_BIAS_WORDS = ("bias", "biases", "b", "beta", "betas", "offset", "offsets", "shift")
_KERNEL_WORDS = ("kernel", "kernels", "weight", "weights", "w", "scale", "scales", "gamma", "gammas", "gain", "g")
_END = r"(_?\d+)*(_l\d+)?(_reverse)?"  # of the second of its kind, or of a layer of torch's LSTM
_BIAS = r"(.*_)?(bias|biases|offsets?|betas?|shift|intercept|b)|bias_[a-z]{1,3}|b_[a-z]{1,5}|b[qkvoihfgcrxz]"
_POSITION = (
    r"w?pe|(.*_)?(positions?|positional|posemb|posembed|rel_pos(_[hw])?|pos)"
    r"|(.*_)?(pos|positions?|positional|temporal|spatial)_?(emb|embeds?|embeddings?|enc|encodings?|table)(_.*)?"
    r"|(.*_)?(emb|embed|embeddings?)_(pos|positions?)|(relative|rel)_(.*_)?bias(_table)?"
)
# The first kind that matches the last name is the leaf's.
_KINDS: Mapping[str, re.Pattern[str]] = {
    kind: re.compile(f"({pattern}){_END}")
    for kind, pattern in {
        "kernel": r"lora_[ab]",
        "running statistics": r"((running|moving|batch|ema|pop)_)?(mean|var|variance|avg|average|std)|.*_tracked",
        "mask": r"(.*_)?masks?",
        "positional embedding": _POSITION,
        "token": r"(?!embed_)(.*_)?(tokens?|cls|(class|cls|mask|dist|reg|register)_(embed|emb|embeddings?))",
        "bias": _BIAS,
        "scale": (r"(.*_)?(scales?|gammas?|gains?|temperature|slope|lambda|layerscale|logitscale|rescale)|ls|weight_g"),
        " kernel": (
            r"(.*_)?(kernels?|weights?|w)|(weight|kernel|w)_(?!g)[a-z]{1,5}|w[a-z]"
            r"|(.*_)?(query|key|value|out|qkv|proj|projection|dense|linear|conv|fc|einsum)"
        ),
        "embedding table": r"(.*_)?(emb|embeds?|embeddings?|codebook|lookup_table|wte|vocab)",
    }.items()
}
_TORCH = {"original": "kernel", "original0": "scale", "original1": "kernel"}  # parametrized; g and v of weight norm
NEVER = ("running statistics", "mask", "positional embedding", "token", "bias", "scale")

_NORM = r"([blgi]|batch|layer|group|instance|rms|weight|power|filter|response)?_?norm(alization)?s?(\d+d)?"
_NORM_NAME = re.compile(
    rf"(.*_)?({_NORM}|bn|ln|gn|p_?relu)(_?\d+)*(_(f|pre|post|final|q|k|v|in|out|attn|mlp|ffn|cross|self))?"
)
_NORM_CLASS = re.compile(rf"(.*_)?{_NORM}|layer_?scale|scale|bias|p_?re_?lu")
_STATE_CLASS = re.compile(r"(batch_stat|cache|intermediate|rng_(state|key|count|stream)|state_index)")


def by_name(items: Iterable[tuple[str, Item]]) -> dict[str, Item]:
    """The dict of (name, item), one for each leaf.

    Raises:
      ValueError: for two leaves of one name, of which a dict would hold one.
    Example:
      >>> by_name([("a/b", 3), ("a/b", 5)])
      Traceback (most recent call last):
      ValueError: expected leaves of different names, got two that are called a/b
    """
    named: dict[str, Item] = {}
    for name, item in items:
        if name in named:
            raise ValueError(f"expected leaves of different names, got two that are called {name}")
        named[name] = item
    return named


def path_name(path: tuple) -> str:
    """The name of a leaf: the parts of its key path joined by "/", e.g. `layer1/0/conv1/kernel`.

    Example:
      >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"a": [0.5]})
      >>> path_name(path)
      'a/0'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def pattern_of(text: str) -> re.Pattern[str]:
    """The compiled regular expression, to be searched for in names.

    Raises:
      ValueError: if it cannot be read, whatever Python's own error is.
    Example:
      >>> pattern_of("a{99999999999}")
      Traceback (most recent call last):
      ValueError: expected a regular expression, got 'a{99999999999}' (the repetition number is too large)
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of what later versions of Python may read otherwise
            return re.compile(text)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a regular expression, got {text!r} ({error})") from None


def parts_of(path: tuple) -> Parts:
    """The parts of a path's name; those of Haiku's and PyTorch's keys one by one, without "~".

    Example:
      >>> parts_of((jax.tree_util.DictKey("mlp/~/linear_0"), jax.tree_util.DictKey("w")))
      ('mlp', 'linear_0', 'w')
    """
    return tuple(part for part in re.split(r"[/.]", path_name(path)) if part not in ("", "~"))


def last_of(parts: Parts) -> str:
    """The last name in snake case: list indices are no names, nor are keys that name what their parent belongs to, as
    in Flax's WeightNorm.

    Example:
      >>> last_of(("blocks", "posEmbed", "0")), last_of(("weight_norm", "scales", "('kernel',)"))
      ('pos_embed', 'scales')
    """
    named = [part for part in parts if not part.isdecimal() and not part.startswith("(")]
    return _snake(named[-1]) if named else ""


@functools.lru_cache(maxsize=4096)
def kind_of(parts: Parts) -> str:
    """What the last name says that a leaf is: "kernel", "embedding table", one of `NEVER`; or "", nothing.

    Example:
      >>> kind_of(("bn1", "bias")), kind_of(("kernels", "0")), kind_of(("cls_token",)), kind_of(("theta",))
      ('bias', 'kernel', 'token', '')
    """
    name = last_of(parts)
    found = (kind.strip() for kind, pattern in _KINDS.items() if pattern.fullmatch(name))
    return _TORCH.get(name) or next(found, "")


def partner_of(parts: Parts) -> Parts | None:
    """The name of A beside a matrix B, as in lora_B or the state spaces of S4; None for other names."""
    if not parts or not re.fullmatch(r"(.*_)?[bB]", parts[-1]):
        return None
    return (*parts[:-1], parts[-1][:-1] + chr(ord(parts[-1][-1]) - 1))


@functools.lru_cache(maxsize=4096)
def stem_of(parts: Parts) -> Parts:
    """What is left of the last name without its word: equal for a kernel and its bias.

    Example:
      >>> stem_of(("conv1_w",)), stem_of(("conv1_b",)), stem_of(("fc", "bias")), stem_of(("weight_ih_l0",))
      (('conv', '1'), ('conv', '1'), (), ('ih', 'l', '0'))
    """
    words = _BIAS_WORDS if kind_of(parts) == "bias" else _KERNEL_WORDS
    tokens = re.findall(r"[a-z]+|\d+", last_of(parts))
    word = next((token for token in tokens if token in words), None)
    if word is not None:
        tokens.remove(word)
    return tuple(tokens)


def is_norm_weight(parts: Parts) -> bool:
    """Whether the last name is that of a norm, with or without a word for a weight: rmsnorm_w, ln1_g, rms_att_weight.

    Example:
      >>> is_norm_weight(("norm_weight",)), is_norm_weight(("rms_att_weight",)), is_norm_weight(("attn_weight",))
      (True, True, False)
    """
    stem = re.sub(r"_?(weights?|w|g)$", "", last_of(parts))
    return bool(_NORM_NAME.fullmatch(stem)) or re.match(r"(.*_)?rms(_|$)", stem) is not None


def is_norm(parents: Parts) -> bool:
    """Whether the nearest name among a leaf's parents is that of a norm: bn1, layer_norm, ln_f, BatchNorm_0."""
    return bool(_NORM_NAME.fullmatch(last_of(parents)))


def is_positional(parents: Parts) -> bool:
    """Whether the nearest name among a leaf's parents is that of positional embeddings."""
    return bool(re.fullmatch(f"({_POSITION}|relative_attention_bias)", last_of(parents)))


def is_table(parents: Parts) -> bool:
    """Whether the nearest name among a leaf's parents is that of an embedding: embed_tokens, wte."""
    name = last_of(parents)
    return name.startswith("embed_tok") or bool(_KINDS["embedding table"].fullmatch(name))


def is_norm_class(name: str) -> bool:
    """Whether a class of that name holds scales and offsets only: LayerNorm, BatchNorm2d, PReLU, LayerScale."""
    return bool(_NORM_CLASS.fullmatch(_snake(name)))


def is_state(name: str) -> bool:
    """Whether a class of that name holds what does not train: BatchStat, RngKey (Flax), StateIndex (Equinox)."""
    return bool(_STATE_CLASS.fullmatch(_snake(name)))


def _snake(name: str) -> str:
    """CamelCase in snake case: LayerNorm -> layer_norm, RMSNorm -> rms_norm."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return name.replace("-", "_").lower()
