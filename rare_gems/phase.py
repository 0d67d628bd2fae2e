"""The small types that every method is written in: `Ticket`, `Transform`, `Rounds`, `Phase`, `Recipe`."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import optax

__all__ = [
    "Batch",
    "Context",
    "Info",
    "Key",
    "LossFn",
    "Mask",
    "ModelState",
    "Params",
    "Phase",
    "PyTree",
    "Recipe",
    "Rounds",
    "Scores",
    "State",
    "Step",
    "Ticket",
    "Transform",
    "View",
]

PyTree = Any  # checked by structure where it is used, not by annotation
Params = Scores = Mask = State = ModelState = Batch = PyTree
Key = jax.Array
Step = Any  # an int32 scalar, traced or not


class Ticket(NamedTuple):
    """A subnetwork: what is trained, what is scored, and what is kept.

    `scores` (float) and `mask` (bool, True = kept) have the structure of `params`, with `None` where a leaf of
    `params` is not prunable: the tree itself says what counts.
    """

    params: Params
    scores: Scores
    mask: Mask


class Context(NamedTuple):
    """What a transform may look at beside the ticket.

    `grads` is the DENSE gradient dL/dw at w = view(ticket), before the pull-back through the view, and `loss` the
    loss there (float32); `batch`, `grads` and `loss` are None outside a training step (in `edit`, in `after`, and in
    a round). `given` are the numbers of a round, None elsewhere.
    """

    step: Step
    key: Key
    batch: Batch
    grads: Params | None
    loss: jax.Array | None = None
    given: PyTree = None


class Info(NamedTuple):
    """Diagnostics of one epoch, never fed back: means of `loss` and `accuracy` over its steps (float32), the
    `sparsity` of the effective mask at its end, and `flips`, the weights whose effective mask it changed."""

    loss: Any
    accuracy: Any
    sparsity: Any
    flips: Any


View = Callable[[Ticket, Step, Key], Params]
# (params, model state, batch, key) -> (loss, (model state, accuracy)); the key is another at each step, for dropout.
LossFn = Callable[[Params, ModelState, Batch, Key], tuple[jax.Array, tuple[ModelState, Any]]]


class Transform(NamedTuple):
    """A pure edit of a ticket, in the shape of optax: `init(ticket) -> state`, and
    `update(ticket, state, context) -> (ticket, state)`."""

    init: Callable[[Ticket], State]
    update: Callable[[Ticket, State, Context], tuple[Ticket, State]]


class Rounds(NamedTuple):
    """What a phase does between its steps, at times that are known before: `transform`, once each of `steps` steps of
    the phase are done. It is compiled apart, so that the step itself holds no control flow and no selection.

    `steps` rise from 1 or more to at most the phase's `num_steps`: `range(100, 1001, 100)`. `given(r)` are the numbers
    of round r = 0, 1, ..., a tree of integers and floats which the transform finds in `context.given`
    (`transforms.keep_given` keeps so many). Runs that train at once may differ in both.
    """

    transform: Transform
    steps: range | tuple[int, ...]
    given: Callable[[int], PyTree] = lambda r: None


class Phase(NamedTuple):
    """One static stretch of training: what the network sees, which half of the ticket trains, and how it is
    edited after each step (`during`), every so many steps (`rounds`, after `during`), and once at the end (`after`;
    its state is made at the start).

    `optimizer` is any that `rare_gems.training.optimizer` does not refuse. With `hold_dead`, updates and
    parameter-like optimizer slots are zero where the mask is False; where the params train, so are the params
    themselves. `loss_fn`, if given, takes the place of the trainer's: criteria such as GraSP's are w * dL/dw of a
    loss of their own. With `rewind_state` the model state (BatchNorm statistics) ends the phase as it began it.
    `passes` is the cost of a step, in forward and backward passes of a batch (of one example, where the phase does
    not use the data). `first_step` is where in its training the phase begins, for one order of batches in all phases
    (`data_key` of `trainer.epochs`).
    """

    view: View
    trains: Literal["params", "scores"]
    optimizer: optax.GradientTransformation
    during: Transform
    after: Transform
    num_steps: int
    hold_dead: bool = True
    name: str = "search"
    loss_fn: LossFn | None = None
    rewind_state: bool = False
    passes: int = 1
    uses_data: bool = True
    first_step: int = 0
    rounds: Rounds | None = None


Recipe = tuple[Phase, ...]
