"""The laws that every pruning method keeps. A new method adds one row to `METHODS`."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import keep_ratios, masks, schedules, transforms, views
from rare_gems.phase import Phase
from rare_gems.pruners.continuous_sparsification import continuous_sparsification
from rare_gems.pruners.edge_popup import edge_popup
from rare_gems.pruners.force import force
from rare_gems.pruners.gem_miner import gem_miner
from rare_gems.pruners.gmp import gmp
from rare_gems.pruners.grasp import grasp
from rare_gems.pruners.hybrid import hybrid
from rare_gems.pruners.imp import imp, lottery_ticket, lrr
from rare_gems.pruners.jackpot import jackpot
from rare_gems.pruners.magnitude import magnitude
from rare_gems.pruners.parts.finetune import dense, finetune
from rare_gems.pruners.prospr import prospr
from rare_gems.pruners.random_mask import random, random_ticket
from rare_gems.pruners.rigl import rigl
from rare_gems.pruners.smart_ratio import smart_ratio
from rare_gems.pruners.snip import snip
from rare_gems.pruners.sparse_evolutionary_training import sparse_evolutionary_training
from rare_gems.pruners.supermask import supermask
from rare_gems.pruners.synflow import synflow
from rare_gems.storage import checkpoint
from rare_gems.training import trainer
from tests.toy import NUM_BATCHES, ORDER, make_toy

KEY = jax.random.key(7)
SPARSITY = 0.8
NUM_PRUNABLE = 16 * 8 + 8 * 6
TARGET = masks.count_for(NUM_PRUNABLE, SPARSITY)
TUNE = finetune(num_epochs=2, steps_per_epoch=NUM_BATCHES, learning_rate=0.1)
DENSE = finetune(num_epochs=3, steps_per_epoch=NUM_BATCHES, learning_rate=0.1)
GIVEN = {"sparsity": SPARSITY, "finetune": TUNE}
EPOCHS = {"sparsity": SPARSITY, "num_epochs": 7, "steps_per_epoch": NUM_BATCHES}
TRAIN = {"num_epochs": 2, "steps_per_epoch": NUM_BATCHES, "learning_rate": 0.1}
ROUNDS = {"round_epochs" if name == "num_epochs" else name: value for name, value in TRAIN.items()}
ROUNDS |= {"sparsity": SPARSITY, "rounds": 3}
TUNED = GIVEN | {
    "linear": None, "ratios": (0.25, 0.1), "candidates": 3, "candidate_steps": 3, "num_epochs": 3,
    "steps_per_epoch": NUM_BATCHES, "learning_rate": 1.0,
}  # fmt: skip
SEARCH = {"sparsity": SPARSITY, "num_epochs": 7, "steps_per_epoch": NUM_BATCHES, "period": 2, "l2": 1e-3}


class Row(NamedTuple):
    """`rounds`: kept after each phase-local step, {(phase, steps done): count}; `exact` is False where the method
    does not promise the final count; `reviving` where masks are not nested."""

    make: Callable
    rounds: dict[tuple[int, int], int]
    target: int = TARGET
    exact: bool = True
    reviving: bool = False


def _gmp_with_adam(mask):
    counts = jnp.array(schedules.exponential_counts(NUM_PRUNABLE, SPARSITY, 4), jnp.int32)
    prune = transforms.keep_top(lambda step: counts[step // 2], score=transforms.magnitude)
    during = transforms.when(schedules.every(2), prune)
    adam = optax.adam(schedules.cosine(0.01, 2, 4))
    return (Phase(views.masked, "params", adam, during, transforms.identity(), 8), TUNE)


def _toy_logits(params, state, x, train):
    """A network of the toy's shapes, for the criteria that look at outputs: 16 inputs, 6 logits."""
    del train
    hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ params["first"]["kernel"] + params["first"]["bias"][None])
    return hidden @ params["last"]["kernel"] + params["last"]["bias"][None], state


def _toy_loss(params, state, batch, key):
    """A loss with curvature across weights, on images made from the toy's scalars."""
    del key
    images = batch[:, None] * jnp.linspace(-1.0, 1.0, 16)[None]
    logits, state = _toy_logits(params, state, images, True)
    return jnp.mean(jnp.square(logits - batch[:, None])), (state, jnp.float32(0))


def _freezing():
    counts = schedules.exponential_counts(NUM_PRUNABLE, SPARSITY, 3)
    return {(0, (2 * r + 3) * NUM_BATCHES): count for r, count in enumerate(counts)} | {
        (0, 3): NUM_PRUNABLE,
        (0, 8): NUM_PRUNABLE,
    }


METHODS = {
    "gem_miner": Row(lambda m: gem_miner(m, finetune=TUNE, **SEARCH), _freezing()),
    "gem_miner_layer": Row(lambda m: gem_miner(m, finetune=TUNE, scope="layer", **SEARCH), _freezing()),
    "gem_miner_stochastic": Row(lambda m: gem_miner(m, finetune=TUNE, rounding="stochastic", **SEARCH), _freezing()),
    "gem_miner_adam": Row(lambda m: gem_miner(m, finetune=TUNE, optimizer="adam", **SEARCH), _freezing()),
    "gem_miner_rounded": Row(
        lambda m: gem_miner(m, finetune=TUNE, finetune_mask="rounded", **SEARCH), _freezing(), exact=False
    ),
    "random": Row(lambda m: random(m, sparsity=SPARSITY, finetune=TUNE), {}),
    "random_layer": Row(lambda m: random(m, sparsity=SPARSITY, finetune=TUNE, scope="layer"), {}),
    "dense": Row(lambda m: dense(TUNE), {}, target=NUM_PRUNABLE),
    "edge_popup": Row(lambda m: edge_popup(m, finetune=TUNE, **EPOCHS), {(1, 21): NUM_PRUNABLE}),
    "edge_popup_gradual": Row(
        lambda m: edge_popup(m, finetune=TUNE, scope="global", gradual=True, period=2, l2=1e-3, **EPOCHS), {}
    ),
    "imp": Row(
        lambda m: imp(m, finetune=TUNE, rewind_step=2, rewind_batch_norm=True, **ROUNDS), {(2, 4): 103, (3, 1): 60}
    ),
    "lottery_ticket": Row(
        lambda m: lottery_ticket(m, finetune=TUNE, sparsity=SPARSITY, **TRAIN), {(0, 6): NUM_PRUNABLE}
    ),
    "lrr": Row(lambda m: lrr(m, finetune=TUNE, **ROUNDS), {(1, 6): 103, (2, 1): 60}),
    "snip": Row(lambda m: snip(m, loss_fn=_toy_loss, batches=2, **GIVEN), {(0, 2): NUM_PRUNABLE}),
    "grasp": Row(lambda m: grasp(m, loss_fn=_toy_loss, **GIVEN), {(0, 1): NUM_PRUNABLE}),
    "synflow": Row(
        lambda m: synflow(m, apply=_toy_logits, image_shape=(16,), rounds=4, **GIVEN), {(0, 2): 79, (0, 4): TARGET}
    ),
    "force": Row(lambda m: force(m, loss_fn=_toy_loss, rounds=4, **GIVEN), {(0, 2): 79, (0, 4): TARGET}, reviving=True),
    "iterative_snip": Row(
        lambda m: force(m, loss_fn=_toy_loss, rounds=4, revive=False, **GIVEN), {(0, 2): 79, (0, 4): TARGET}
    ),
    "prospr": Row(lambda m: prospr(m, loss_fn=_toy_loss, momentum=0.5, **GIVEN), {(0, 1): NUM_PRUNABLE}),
    "magnitude": Row(lambda m: magnitude(m, **GIVEN), {}),
    "erk": Row(lambda m: random_ticket(m, keep_ratios.erk(m, TARGET), TUNE), {}),
    "smart_ratio": Row(lambda m: smart_ratio(m, linear=None, order=ORDER, **GIVEN), {}),
    "smart_ratio_v6": Row(
        lambda m: smart_ratio(m, version="v6", order=ORDER, **TUNED), {(0, 9): NUM_PRUNABLE, (1, 9): NUM_PRUNABLE}
    ),
    "hybrid": Row(lambda m: hybrid(m, training=DENSE, linear=None, order=ORDER, **GIVEN), {(0, 9): NUM_PRUNABLE}),
    "jackpot": Row(lambda m: jackpot(m, finetune=TUNE, **EPOCHS), {(1, 0): TARGET, (1, 21): TARGET}, reviving=True),
    "gmp": Row(lambda m: gmp(m, finetune=TUNE, every=4, **EPOCHS), {(0, 3): 176, (0, 4): 94, (0, 8): 53, (0, 16): 35}),
    "rigl": Row(
        lambda m: rigl(m, finetune=TUNE, every=2, ratios="uniform", **EPOCHS),
        {(1, 1): TARGET, (1, 8): TARGET},
        reviving=True,
    ),
    "set": Row(
        lambda m: sparse_evolutionary_training(m, finetune=TUNE, ratios="uniform", **EPOCHS),
        {(1, 3): TARGET, (1, 8): TARGET},
        reviving=True,
    ),
    "continuous_sparsification": Row(lambda m: continuous_sparsification(m, finetune=TUNE, **EPOCHS), {(1, 21): 176}),
    "supermask": Row(lambda m: supermask(m, finetune=TUNE, **EPOCHS), {(1, 21): NUM_PRUNABLE}),
    "parts: gmp with adam": Row(_gmp_with_adam, {(0, 8): TARGET}),
}


@pytest.fixture(scope="module")
def toy():
    return make_toy()


@pytest.fixture(scope="module")
def programs():
    """Steps are traced and compiled once for all laws of a method, and for all methods that have a phase in common."""
    known, asked = ({}, {}), []
    with pytest.MonkeyPatch.context() as patch:
        for name, of in zip(("step_parts", "advance_fn"), known, strict=True):
            patch.setattr(trainer, name, _once(getattr(trainer, name), of, asked))
        yield *known, asked


@pytest.fixture(scope="module", params=list(METHODS))
def case(request, toy, programs):
    row = METHODS[request.param]
    yield toy, row, row.make(toy.ticket.mask)
    parts, advances, _ = programs
    for key in [key for key, ((_, phase, _), _) in parts.items() if phase not in (TUNE, DENSE)]:
        del parts[key]
    kept = [descend for _, (descend, _) in parts.values()]
    for key in [key for key, (args, _) in advances.items() if args[0] not in kept]:
        del advances[key]


def _once(fn, known, asked):
    """What `fn` returned for the very same arguments, which are kept alive; `asked` lists every call's."""

    def remembered(*args):
        asked.append(key := tuple(map(id, args)))
        if key not in known:
            known[key] = args, fn(*args)
        return known[key][1]

    return remembered


@pytest.fixture(scope="module")
def traced():
    """What was traced already, for whichever method: phases by their identity, and all that are so named, alive."""
    return set(), []


@pytest.fixture(scope="module")
def alone(case, traced, programs):
    """What a run ends with, and how often it traced the toy's loss, for how many phases that no run had before."""
    programs[-1].clear()
    (toy, _, recipe), (before, alive) = case, traced
    new = {id(phase) for phase in _counted(recipe)} - before
    before |= new
    alive.append(recipe)
    toy.num_traces[0] = 0
    ended = _run(toy, recipe, loop="python")
    assert len(set(programs[-1])) == len(programs[-1])  # the trainer itself makes the programs of a phase once
    return ended, toy.num_traces[0], len(new)


def _counted(recipe):
    """The phases that step with the toy's own loss, which counts how often it is traced."""
    return [phase for phase in recipe if phase.num_steps and phase.loss_fn is None]


def _steps(toy, recipe):
    """Every carry of a run that is stopped after each step, and the ticket at the end of each phase."""
    ticket, state = toy.ticket, toy.model_state
    for index, phase in enumerate(recipe):
        carry = trainer.begin(phase, ticket, state, jax.random.fold_in(KEY, index))
        yield index, phase, carry, carry.ticket
        for _ in range(phase.num_steps):
            options = {"resume": (index, carry), "poll": lambda index, done: True}
            moments = trainer.epochs(
                recipe, ticket, state, loss_fn=toy.loss_fn, feed=toy.feed, key=KEY, loop="python", **options
            )
            carry = next(moments).carry
            yield index, phase, carry, carry.ticket
        ticket, state = _finish(phase, carry), carry.model_state
        yield index, phase, carry, ticket


_finish = jax.jit(trainer.finish, static_argnums=0)


def _run(toy, recipe, **options):
    return trainer.run(recipe, toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=toy.feed, key=KEY, **options)


def _equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(_raw(x), _raw(y))


def _raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_counts_nesting_and_dead_weights(case, alone):
    toy, row, recipe = case
    seen, before = set(), _host(masks.ones(toy.ticket.params))
    for index, phase, carry, ticket in _steps(toy, recipe):
        done = (index, int(carry.step))
        if done in row.rounds:
            seen.add(done)
            assert masks.num_kept(carry.ticket.mask) == row.rounds[done]
        mask, trained = _host(ticket.mask), _host(getattr(ticket, phase.trains))
        if not row.reviving:
            assert all(map(lambda new, old: bool(np.all(old | ~new)), *map(jax.tree.leaves, (mask, before))))
        before = mask
        if phase.hold_dead:
            if phase.trains == "params":  # the ticket of the step, or what `finish` makes of it
                jax.tree.map(_assert_zero_where, trained, _dead(mask, trained))
            dead = _dead(carry.ticket.mask, trained)
            optax.tree.map_params(phase.optimizer, _assert_zero_where, _host(carry.opt_state), dead)
    assert seen == set(row.rounds)
    final = masks.num_kept(ticket.mask)
    assert final == row.target if row.exact else 0 < final <= row.target
    if row.exact:
        masks.check(ticket.mask, row.target)


def _host(tree):
    return jax.tree.map(np.asarray, tree)


def _dead(mask, like):
    """Where a weight is dead, in the structure of `like`: nowhere in what is not prunable."""
    return jax.tree.map(lambda w, m: np.zeros(w.shape, bool) if m is None else ~np.asarray(m), like, mask)


def _assert_zero_where(slot, dead):
    np.testing.assert_array_equal(slot[dead], 0)


def test_the_carry_keeps_its_types_and_abstract_values_suffice(case):
    toy, _, recipe = case
    for phase in recipe:
        carry = jax.eval_shape(lambda p=phase: trainer.begin(p, toy.ticket, toy.model_state, jax.random.key(0)))
        after = jax.eval_shape(trainer.make_step(toy.loss_fn, phase), carry, toy.feed.data[:4])
        describe = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]  # noqa: E731
        assert jax.tree.structure(carry) == jax.tree.structure(after)
        assert describe(carry) == describe(after)
        end = jax.eval_shape(lambda c, p=phase: trainer.finish(p, c), carry)
        assert describe(end) == describe(carry.ticket)


def test_loop_and_scan_agree_and_compile_once(case, alone, traced):
    toy, _, recipe = case
    counted = _counted(recipe)
    chunks = {(id(p), min(NUM_BATCHES, p.num_steps - i)) for p in counted for i in range(0, p.num_steps, NUM_BATCHES)}
    (dispatched, _), num_traces, num_phases = alone
    assert num_traces == num_phases  # however often a phase comes again
    toy.num_traces[0] = 0
    scanned, _ = _run(toy, recipe, loop="scan")
    assert toy.num_traces[0] == len(chunks - traced[0])
    traced[0].update(chunks)
    _equal(dispatched.mask, scanned.mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), dispatched.params, scanned.params)


def test_many_runs_at_once_give_each_its_own_ticket(case, alone):
    toy, _, recipe = case
    keys = jnp.stack([KEY, jax.random.key(3)])
    twice = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)  # noqa: E731
    options = {"loss_fn": toy.loss_fn, "feed": toy.feed}
    together, states = trainer.run(recipe, twice(toy.ticket), twice(toy.model_state), key=keys, many=True, **options)
    other = trainer.run(recipe, toy.ticket, toy.model_state, key=keys[1], **options)
    for i, (ticket, state) in enumerate((alone[0], other)):
        _equal(jax.tree.map(lambda m, i=i: m[i], together.mask), ticket.mask)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6), together.params, ticket.params
        )
        assert states["seen"][i] == state["seen"]


def test_sharded_equals_unsharded(case, alone):
    toy, _, recipe = case
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    place = lambda x: jax.device_put(x, rows if x.ndim == 2 else whole)  # noqa: E731
    sharded = toy._replace(ticket=jax.tree.map(place, toy.ticket), model_state=jax.tree.map(place, toy.model_state))
    expected, got = alone[0][0], _run(sharded, recipe)[0]
    assert len(jax.tree.leaves(got.mask)[0].sharding.device_set) == 8
    _equal(jax.tree.map(np.asarray, expected.mask), jax.tree.map(np.asarray, got.mask))


def test_restored_equals_uninterrupted(case, alone, tmp_path):
    """Stopped twice: after the first step, and half-way."""
    toy, _, recipe = case
    ends = [0, *itertools.accumulate(phase.num_steps for phase in recipe)]
    inside = [step for step in range(1, ends[-1]) if step not in ends]  # at a phase's end there is nothing to stop
    manager = checkpoint.open_folder(tmp_path, keep=100)
    resume = None
    for stop in sorted({inside[0], inside[len(inside) // 2]}):
        options = {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": KEY, "resume": resume}
        poll = lambda index, done, stop=stop: ends[index] + done == stop  # noqa: E731
        for moment in trainer.epochs(recipe, toy.ticket, toy.model_state, poll=poll, **options):
            last = moment
        assert last.interrupted
        checkpoint.save(manager, stop, last.carry, {"index": last.index})
        phase = recipe[last.index]
        template = jax.eval_shape(lambda p=phase: trainer.begin(p, toy.ticket, toy.model_state, jax.random.key(0)))
        manager.wait_until_finished()
        saved = checkpoint.restore_latest(manager, lambda notes, t=template: t)
        assert saved.position == stop
        resume = saved.notes["index"], saved.tree
    _equal(_run(toy, recipe, resume=resume), alone[0])
    checkpoint.close(manager)
