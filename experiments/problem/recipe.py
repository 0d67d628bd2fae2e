"""The recipe of a configuration: what its pruner makes of data, network and options."""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax

from experiments.catalog.networks import NETWORKS, input_shape
from experiments.catalog.pruners.options import as_dict
from experiments.catalog.pruners.pruner import Setting, make_recipe
from experiments.catalog.sanity_checks import CHECKS
from experiments.config.config import Config
from experiments.config.flag_names import flag_of
from experiments.problem.data import facts_of
from experiments.problem.evaluation import batch_size, stream_batch_size
from experiments.problem.found_ticket import rewound_to
from experiments.problem.network import check_sizes, network_for
from experiments.problem.problem import make_loss
from experiments.problem.prunable import is_kernel, leaves_for, mask_for
from experiments.problem.training import Part, check_training, descent_for, smoothing_for
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.data.device_batches import num_batches
from rare_gems.masks import LeafReport
from rare_gems.models.model import Model
from rare_gems.phase import LossFn, Mask, Phase, Recipe
from rare_gems.pruners.parts.finetune import finetune

__all__ = ["Planned", "check_recipes", "plan_of", "recipe_for", "training_phase"]


class Planned(NamedTuple):
    """What is known of a run before anything is read: its recipe, an abstract mask, the steps of an epoch; and of each
    leaf of the network whether it counts as prunable, and why."""

    recipe: Recipe
    mask: Mask
    steps_per_epoch: int
    leaves: list[LeafReport]


def recipe_for(
    config: Config,
    mask: Mask,
    *,
    steps_per_epoch: int,
    finetune_steps: int,
    loss: Callable[..., LossFn],
    model: Model,
    image_shape: tuple[int, ...],
    invert: bool = False,
) -> Recipe:
    """The recipe of the pruner.

    Args:
      finetune_steps: of an epoch of finetuning, where the search sees other data. The others: as in `Setting`.
    Raises:
      UsageError: for what the pruner refuses, naming the flag where an option of its own is to blame.
    """
    check_training(config, "training", steps_per_epoch)
    setting = Setting(
        mask=mask,
        sparsity=config.sparsity,
        num_epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        finetune=training_phase(config, finetune_steps, loss),
        loss=loss,
        model=model,
        image_shape=image_shape,
        invert=invert,
        descent=descent_for(config, "training"),
        weights_loss=_smoothed(config, "training", loss),
    )
    return make_recipe(config.pruner, config.method, setting, as_dict(config.options))


def _smoothed(config: Config, part: Part, loss: Callable[..., LossFn]) -> LossFn | None:
    smoothing = smoothing_for(config, part)
    return loss(smoothing=smoothing) if smoothing else None


def training_phase(config: Config, steps_per_epoch: int, loss: Callable[..., LossFn]) -> Phase | None:
    """The finetuning that every pruner ends with, if there is any: from step k on, of a ticket rewound to step k.

    Args:
      loss: as in `recipe_for`.
    Raises:
      UsageError: for what the weights cannot train by.
    """
    if config.finetune_epochs == 0:
        return None
    check_training(config, "finetune", steps_per_epoch)
    first_step, last = rewound_to(config), config.finetune_epochs * steps_per_epoch - 1
    if first_step > last and config.method.begins is not None:
        raise UsageError(
            f"--finetune-epochs: expected more than {first_step} steps, from where the ticket of "
            f"{config.method.begins(config.options)} goes on, got {last + 1}"
        )
    if first_step > last:
        raise UsageError(
            f"{flag_of(config.pruner)}.rewind-step: expected at most {last}, since the ticket trains from there to the "
            f"end of --finetune-epochs={config.finetune_epochs}, got {first_step}"
        )
    return finetune(
        num_epochs=config.finetune_epochs,
        steps_per_epoch=steps_per_epoch,
        learning_rate=config.finetune_learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        first_step=first_step,
        descent=descent_for(config, "finetune"),
        loss_fn=_smoothed(config, "finetune", loss),
    )


def plan_of(config: Config, share: float = 1.0) -> Planned:
    """The recipe that a configuration stands for; no data is read.

    Args:
      share: of the training examples, that the search sees.
    Raises:
      ValueError: for what the pruner refuses. UsageError: for what --prunable and --dense name wrongly; under
        --on-collapse=error for fewer weights than layers.
    """
    facts = facts_of(config)
    shape = input_shape(config.model, facts.image_shape)
    model = network_for(config, shape, facts.num_classes)
    counts = Config(
        dataset=config.dataset, model=config.model, prunable=config.prunable, dense=config.dense,
        scale_fan=config.scale_fan,
    )  # fmt: skip
    traced = _traced if config.model in NETWORKS else _traced.__wrapped__  # the functions of others may have no hash
    leaves, mask = traced(model, counts)
    _check_collapse(config, mask)
    steps, whole = (num_batches(math.floor(facts.num_train * part), config.batch_size) for part in (share, 1.0))
    recipe = recipe_for(
        config,
        mask,
        steps_per_epoch=steps,
        finetune_steps=whole,
        loss=partial(make_loss, model),
        model=model,
        image_shape=shape,
    )
    if share == 1.0:  # the evaluation is that of all
        streamed, held = (
            config.data.streamed or config.stream,
            {"test": facts.num_test, "validation": facts.num_validation},
        )
        sizes = {f"evaluating the {split} images": stream_batch_size(num) if streamed else batch_size(num, shape[0])
                 for split, num in held.items() if num}  # fmt: skip
        check_sizes(config.model, model, make_loss(model), shape, {"training": config.batch_size} | sizes)
    return Planned(recipe, mask, steps, leaves)


@functools.lru_cache(maxsize=64)  # the items of `experiments.reproduce` have some forty
def _traced(model: Model, config: Config) -> tuple[list[LeafReport], Mask]:
    """What counts in a network, and the abstract mask; runs that agree in that trace it once."""
    params, mask = jax.eval_shape(
        lambda key: (params := model.init(key)[0], mask_for(config, params)),  # sees tied weights
        jax.random.key(0),
    )
    leaves = leaves_for(config, params)
    return leaves, mask


def check_recipes(config: Config, names: Sequence[str], flag: str = "--sanity", known: Planned | None = None) -> None:
    """Raises UsageError for a check that would be refused once its turn comes, naming it and the flag of checks.

    Args:
      known: the plan of the configuration, if there is one already.
    """
    plans = {} if known is None else {1.0: known}
    for name in names:
        share = CHECKS[name].share
        try:
            plans[share] = plans.get(share) or plan_of(config, share)
        except ValueError as error:
            raise UsageError(f"{flag}={name}: {error}") from None
        leaves = plans[share].leaves
        if CHECKS[name].draws and not any(leaf.prunable and is_kernel(leaf) for leaf in leaves):
            raise UsageError(f"{flag}={name}: expected a kernel to draw again, got none among what --prunable names")


def _check_collapse(config: Config, mask: Mask) -> None:
    num_layers, size = len(jax.tree.leaves(mask)), masks.num_prunable(mask)
    num_kept = masks.count_for(size, config.sparsity)
    if config.on_collapse == "error" and num_kept < num_layers:
        raise UsageError(
            f"--on-collapse=error: expected a --sparsity that leaves a weight to each of the {num_layers} layers, "
            f"got {config.sparsity}, which keeps {num_kept} of {size:,}"
        )
