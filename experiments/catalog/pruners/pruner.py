"""What is known of a method beside its file in `rare_gems.pruners`: the fields of its row in the catalogue."""

import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.models.layer_order import layer_order
from rare_gems.models.model import Model, shapes_of
from rare_gems.phase import LossFn, Mask, Phase, Recipe
from rare_gems.pruners.parts.descent import Descent

__all__ = ["Pruner", "Rounds", "Setting", "make_recipe"]


class Setting(NamedTuple):
    """What a recipe is made for.

    mask: the prunable structure. sparsity: the fraction removed. num_epochs, steps_per_epoch: the length of the search.
    learning_rate, batch_size: of the search. momentum, weight_decay: of weights, wherever they train. finetune: the
    last phase, None for none. loss: temperature -> the training loss with the logits divided by it. model: the network.
    image_shape: as it gets images. invert: turn the scores of the search upside down. descent: how weights train in
    the search, and weights_loss: their loss, where it is not that of the trainer.
    """

    mask: Mask
    sparsity: float
    num_epochs: int
    steps_per_epoch: int
    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    finetune: Phase | None
    loss: Callable[[float], LossFn]
    model: Model
    image_shape: tuple[int, ...]
    invert: bool = False
    descent: Descent = Descent()
    weights_loss: LossFn | None = None

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the layers from first to last; the network is traced for it."""
        names = [masks.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(self.mask)]
        plain = all(isinstance(part, types.FunctionType) for part in self.model)  # others may have no hash
        order = _order if plain else _order.__wrapped__
        return order(self.model, self.image_shape, tuple(names))

    @property
    def common(self) -> dict[str, Any]:
        """What every method takes."""
        return {"sparsity": self.sparsity, "finetune": self.finetune}

    @property
    def search(self) -> dict[str, Any]:
        """What methods that train scores for --epochs take."""
        return self.common | {
            "num_epochs": self.num_epochs, "steps_per_epoch": self.steps_per_epoch,
            "learning_rate": self.learning_rate, "momentum": self.momentum,
        }  # fmt: skip

    @property
    def training(self) -> dict[str, Any]:
        """What methods that train weights for --epochs take."""
        return self.search | {
            "weight_decay": self.weight_decay, "descent": self.descent, "loss_fn": self.weights_loss
        }  # fmt: skip

    @property
    def inverted(self) -> dict[str, Any]:
        """What methods that can be inverted take."""
        return {"invert": True} if self.invert else {}


@functools.lru_cache(maxsize=64)
def _order(model: Model, image_shape: tuple[int, ...], prunable: tuple[str, ...]) -> tuple[str, ...]:
    params, state = shapes_of(model)
    names = frozenset(prunable)
    mask = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if masks.path_name(path) in names else None, params)
    return layer_order(model.apply, params, state, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32), mask)


class Rounds(NamedTuple):
    """A schedule by which weights are removed. what: "rounds keep", or more exactly. counts: the weights kept after
    each round. epochs: after which epoch that is, None where rounds are no epochs apart."""

    what: str
    counts: tuple[int, ...]
    epochs: tuple[int, ...] | None = None


class Pruner(NamedTuple):
    """A row of the catalogue.

    what: a line for those who choose. make: (setting, **options) -> recipe. options: a frozen dataclass, made of
    keyword arguments. trains: what its search trains. length: what its search takes: none, --epochs (or only under
    some options), or rounds with a length of their own. invertible: whether its scores can be turned upside down, or
    options -> whether.
    takes_rate: whether a search with a length takes --learning-rate and --momentum, rather than steps of its own.
    with_momentum: options -> whether the steps of its scores have momentum, where they take a rate; None for always.
    reads_data: whether its search reads training data, or options -> whether it does. needs_weights: whether it
    searches a trained network. removes: False for the dense network alone. follows_bound: whether its sparsity follows
    the bound 1 - exp(-c j).
    rounds: (mask, sparsity, num_epochs, options) -> its schedule. keeps_rounds: whether its search trains weights in
    rounds, each under one mask, that --keep=rounds can keep.
    begins: (options) -> the run folder whose search left what it begins with.
    why_idle: (options, name) -> why that option is ignored under the others, without the flag; None if it is not.
    rewinds: options -> the step k whose weights each round ends with, so that the next and the finetuning begin there;
    None where they go on from the weights as they are.
    """

    what: str
    make: Callable[..., Recipe]
    options: type
    trains: Literal["scores", "weights"] | None = None
    length: Literal["epochs", "rounds"] | Callable[[Any], bool] | None = None
    invertible: bool | Callable[[Any], bool] = False
    takes_rate: bool = True
    with_momentum: Callable[[Any], bool] | None = None
    reads_data: bool | Callable[[Any], bool] = True
    needs_weights: bool = False
    removes: bool = True
    follows_bound: bool = False
    keeps_rounds: bool = False
    rounds: Callable[[Mask, float, int, Any], Rounds | None] | None = None
    begins: Callable[[Any], Path] | None = None
    why_idle: Callable[[Any, str], str | None] | None = None
    rewinds: Callable[[Any], int] | None = None

    def takes_epochs(self, options: Any) -> bool:
        """Whether the search trains for --epochs."""
        return self.length(options) if callable(self.length) else self.length == "epochs"

    def inverts(self, options: Any) -> bool:
        """Whether the scores of its search can be turned upside down."""
        return self.invertible(options) if callable(self.invertible) else self.invertible

    def reads(self, options: Any) -> bool:
        """Whether the search reads training data."""
        return self.reads_data(options) if callable(self.reads_data) else self.reads_data

    def takes_momentum(self, options: Any) -> bool:
        """Whether the search trains scores, for --epochs, with --momentum."""
        steps = self.takes_rate and self.takes_epochs(options) and self.trains != "weights"
        return steps and (self.with_momentum is None or self.with_momentum(options))


def make_recipe(name: str, pruner: Pruner, setting: Setting, options: dict[str, Any]) -> Recipe:
    """The recipe of the method called `name`.

    Raises:
      UsageError: for what it refuses, naming the flag where an option is to blame.
    """
    try:
        return pruner.make(setting, **options)
    except UsageError:
        raise
    except ValueError as error:
        argument, colon, rest = str(error).partition(":")
        if colon and argument in options:
            raise UsageError(f"--{name}.{argument}".replace("_", "-") + colon + rest) from None
        if argument == "epochs":
            raise UsageError(f"--epochs:{rest}, with {name}") from None
        hint = f"--{name}.linear=None".replace("_", "-")
        raise UsageError(f"{name}: {error}".replace("linear=None", hint)) from None
