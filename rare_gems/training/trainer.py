"""The one trainer: epochs from the steps of phases, a run from a recipe."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rare_gems import leaves
from rare_gems.phase import Key, LossFn, ModelState, Phase, Recipe, Ticket
from rare_gems.training import optimizer, sharding
from rare_gems.training.carry import Carry, Totals, begin
from rare_gems.training.feeds import Feed, Stream
from rare_gems.training.programs import MANY, Programs, programs_of_phase
from rare_gems.training.step import finish, make_step, step_parts, take_round
from rare_gems.training.stretches import stretches_of

__all__ = ["Carry", "Moment", "Totals", "begin", "epochs", "finish", "make_step", "run", "step_parts", "take_round"]


class Moment(NamedTuple):
    """The end of an epoch or of a phase. `carry` is donated to the next step: read it before asking for more.

    `epoch` counts the whole epochs done in the phase; `ended` says that this is the phase's end, where `after`
    has been applied to `ticket` and `model_state` may have been rewound; `interrupted` that `poll` stopped the run.
    """

    index: int
    phase: Phase
    epoch: int
    carry: Carry
    ticket: Ticket
    model_state: ModelState
    ended: bool
    interrupted: bool


def epochs(
    recipe: Recipe,
    ticket: Ticket,
    model_state: ModelState,
    *,
    loss_fn: LossFn,
    feed: Feed | Stream | Sequence[Feed | Stream],
    key: Key,
    data_key: Key | None = None,
    resume: tuple[int, Carry] | None = None,
    loop: Literal["auto", "python", "scan"] = "auto",
    poll: Callable[[int, int], bool] = lambda index, done: False,
    many: bool = False,
    variants: Sequence[Recipe] | None = None,
    mesh: Mesh | None = None,
    programs: dict[Any, Programs] | None = None,
) -> Iterator[Moment]:
    """Runs a recipe, handing over at the end of every epoch and of every phase.

    Args:
      recipe: phases, run in order; an identical phase that comes again is not compiled again.
      ticket, model_state: where to start; they are copied, never donated.
      loss_fn: as in `make_step`.
      feed: where batches come from (a `feeds.Feed` or `feeds.Stream`), one for all phases or one for each.
      key: the run's randomness: phase i uses fold_in(key, i), its epoch e draws the order of examples from
        fold_in(fold_in(phase key, 2**31 - 1), e).
      data_key: the randomness of batches alone (order and augmentation), the same in every phase: the batch at step s
        of a training is that of data_key and s, where a phase counts from its `first_step`. So a network and its
        subnetworks train on one order, and a training that is rewound to step k goes on with the batches of step k.
      resume: (phase index, carry) of a Moment; the run goes on from there as if it had never stopped.
      loop: "python" dispatches compiled steps one by one, "scan" compiles those of an epoch, or from one round of the
        phase to the next, into one call; "auto" scans
        except on CPU, where XLA runs convolution gradients ten times slower inside a loop (jax-ml/jax#12868). A
        stream's steps are always dispatched one by one.
      poll: called between steps ("scan": between calls) with the phase's index and the steps done in it; once it
        returns True, a last Moment is `interrupted`.
      many: several runs at once, under `jax.vmap`: ticket, model state and key (and a `resume`d carry, but for its
        step) have a leading axis of runs, and so has what is yielded. Each run does what it does alone.
      variants: of many runs, the recipe of each. They may differ from `recipe` in what their states hold, learning
        rates and counts, and in when their rounds are, but not in their programs (see `same_program.program`). None:
        `recipe` for all.
      mesh: the devices over which runs, batches and large weights are spread (see `sharding`); None: the default one.
      programs: a dict, empty at first, that keeps what was compiled for later calls with the same (not only equal)
        phases with steps, feeds and loss_fn, and with these themselves. None: later calls trace and compile again.
    Yields:
      a Moment per epoch, and one per phase end.
    Raises:
      ValueError: if `resume` names a phase that the recipe does not have, there are not as many feeds as phases, a
        leaf of ticket, state or batches is no array, or one of NumPy that JAX would cut to 32 bits, an optimizer
        needs what no phase gives (see `optimizer.check`), or rounds are out of order (see `rounds.check`).
    """
    # Over 60 lines: one loop, of which every part reads what the others make.
    feeds = [feed] * len(recipe) if isinstance(feed, Feed | Stream) else list(feed)
    if len(feeds) != len(recipe):
        raise ValueError(f"feed: expected one, or one for each of {len(recipe)} phases, got {len(feeds)}")
    scan = jax.default_backend() != "cpu" if loop == "auto" else loop == "scan"
    programs_of = functools.partial(programs_of_phase, {}, programs, loss_fn=loss_fn, scan=scan, many=many, mesh=mesh)
    begin_fn, fold_in = (_begin_all, _FOLD_IN) if many else (begin, jax.random.fold_in)
    recipes = [recipe] * key.shape[0] if many and variants is None else [recipe] if variants is None else variants
    start = 0 if resume is None else resume[0]
    if resume is not None and not 0 <= start < len(recipe):
        raise ValueError(f"resume: expected a phase index from 0 to {len(recipe) - 1}, got {start}")
    if variants is not None and (not many or len(variants) != key.shape[0]):
        raise ValueError(f"variants: expected many runs and a recipe for each, got {len(variants)}")
    given = (*ticket._asdict().items(), ("state", model_state), *((f"data of feed {i}", feed.data) for i, feed in
             enumerate(feeds) if isinstance(feed, Feed)))  # fmt: skip
    for name, tree in given:
        leaves.check_arrays(name, tree)
    _check_optimizers(recipe[start:], ticket, many)
    stretches = [
        stretches_of([each[i] for each in recipes], feed.num_batches,
                     lambda *args, i=i: programs_of(recipe[i], feeds[i]).take_round(*args), many=many)
        for i, feed in enumerate(feeds)
    ]  # fmt: skip
    ticket, model_state, key, data_key = sharding.place((ticket, model_state, key, data_key), mesh, many=many)
    for index in range(start, len(recipe)):
        phase, feed = recipe[index], feeds[index]
        if resume is not None and index == start:
            carry = jax.tree.map(lambda x: jnp.array(x, dtype=x.dtype, copy=True), resume[1])
        else:
            keys = fold_in(key, index)
            carry = begin_fn(phase, ticket, model_state, keys, data_key)
            if variants is not None and any(recipe[index] is not phase for recipe in variants):
                carry = _begin_each([recipe[index] for recipe in variants], ticket, model_state, keys, data_key)
        carry = _place(carry, mesh, many)
        _, advance, finish_phase, _ = programs_of(phase, feed)
        done = int(carry.step)
        while done < phase.num_steps:
            target = min(phase.num_steps, (done // feed.num_batches + 1) * feed.num_batches)
            carry, done, interrupted = advance(carry, done, target, functools.partial(poll, index), stretches[index])
            interrupted = interrupted and done < phase.num_steps  # the phase is over: nothing is left to interrupt
            epoch = done // feed.num_batches
            yield Moment(
                index=index,
                phase=phase,
                epoch=epoch,
                carry=carry,
                ticket=carry.ticket,
                model_state=carry.model_state,
                ended=False,
                interrupted=interrupted,
            )
            if interrupted:
                return
        ticket = finish_phase(carry)
        model_state = carry.first_state if phase.rewind_state else carry.model_state
        yield Moment(
            index=index,
            phase=phase,
            epoch=done // feed.num_batches,
            carry=carry,
            ticket=ticket,
            model_state=model_state,
            ended=True,
            interrupted=False,
        )


def _check_optimizers(recipe: Recipe, ticket: Ticket, many: bool) -> None:
    """Raises ValueError for a phase whose optimizer could not take its first step; no step is taken before."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[int(many) :], x.dtype), ticket)
    for phase in {id(phase): phase for phase in recipe if phase.num_steps}.values():
        if phase.trains in Ticket._fields:
            optimizer.check(phase.optimizer, leaves.split(getattr(shapes, phase.trains))[0], phase.name)


def _begin_all(phase: Phase, ticket: Ticket, model_state: ModelState, key: Key, data_key: Key | None) -> Carry:
    one = lambda *args: begin(phase, *args)  # noqa: E731
    return jax.vmap(one, out_axes=MANY[0])(ticket, model_state, key, data_key)


_FOLD_IN = jax.vmap(jax.random.fold_in, in_axes=(0, None))


def _begin_each(phases: Sequence[Phase], *start: Any) -> Carry:
    """The stacked carries of runs whose phases hold different numbers in their states."""
    carries = [begin(phase, *jax.tree.map(lambda x: x[i], start)) for i, phase in enumerate(phases)]  # noqa: B023
    rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(carry[1:] for carry in carries))
    return Carry(carries[0].step, *rest)


def _place(carry: Carry, mesh: Mesh | None, many: bool) -> Carry:
    rest = sharding.place(tuple(carry[1:]), mesh, many=many)
    return Carry(sharding.place(carry.step, mesh), *rest)


def run(recipe: Recipe, ticket: Ticket, model_state: ModelState, **options: Any) -> tuple[Ticket, ModelState]:
    """Runs a recipe to its end; `options` as in `epochs`.

    Returns:
      the ticket and the model state (BatchNorm statistics) after the last phase.
    """
    for moment in epochs(recipe, ticket, model_state, **options):
        if moment.ended:
            ticket, model_state = moment.ticket, moment.model_state
    return ticket, jax.tree.map(jnp.copy, model_state)
