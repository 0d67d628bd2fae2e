"""The laws that every pruning method keeps. A new method adds one row to `METHODS`."""

import jax.numpy as jnp
import optax
import pytest

from rare_gems import keep_ratios, schedules, transforms, views
from rare_gems.phase import Phase
from rare_gems.pruners.continuous_sparsification import continuous_sparsification
from rare_gems.pruners.deep_r import deep_r
from rare_gems.pruners.dsr import dsr
from rare_gems.pruners.edge_popup import edge_popup
from rare_gems.pruners.force import force
from rare_gems.pruners.gem_miner import gem_miner
from rare_gems.pruners.gem_miner_auto import gem_miner_auto
from rare_gems.pruners.gmp import gmp
from rare_gems.pruners.grasp import grasp
from rare_gems.pruners.hybrid import hybrid
from rare_gems.pruners.imp import imp, lottery_ticket, lrr
from rare_gems.pruners.jackpot import jackpot
from rare_gems.pruners.magnitude import magnitude
from rare_gems.pruners.obd import obd
from rare_gems.pruners.parts.finetune import dense, finetune
from rare_gems.pruners.prospr import prospr
from rare_gems.pruners.random_mask import random, random_ticket
from rare_gems.pruners.rigl import rigl
from rare_gems.pruners.smart_ratio import smart_ratio
from rare_gems.pruners.snfs import snfs
from rare_gems.pruners.snip import snip
from rare_gems.pruners.sparse_evolutionary_training import sparse_evolutionary_training
from rare_gems.pruners.supermask import supermask
from rare_gems.pruners.synflow import synflow
from tests import contract
from tests.contract import NUM_PRUNABLE, SPARSITY, TARGET, Row
from tests.toy import NUM_BATCHES, ORDER, make_toy

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
    "gem_miner_auto": Row(lambda m: gem_miner_auto(m, finetune=TUNE, **EPOCHS), {(0, 21): NUM_PRUNABLE}),
    "gem_miner_auto_freeze": Row(
        lambda m: gem_miner_auto(m, finetune=TUNE, unit="layer", freeze=True, **EPOCHS), {(0, 1): 83, (0, 15): TARGET}
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
    "obd": Row(
        lambda m: obd(
            m,
            objective=_toy_loss,
            finetune=TUNE,
            sparsity=SPARSITY,
            rounds=2,
            round_epochs=2,
            batches=2,
            curvature="hutchinson",
            **TRAIN,
        ),
        {(0, 6): NUM_PRUNABLE, (1, 2): NUM_PRUNABLE, (2, 1): 79, (3, 2): 79, (4, 1): TARGET},
    ),
    "snip": Row(lambda m: snip(m, loss_fn=_toy_loss, batches=2, **GIVEN), {(0, 2): NUM_PRUNABLE}),
    "grasp": Row(lambda m: grasp(m, loss_fn=_toy_loss, **GIVEN), {(0, 1): NUM_PRUNABLE}),
    "synflow": Row(
        lambda m: synflow(m, apply=_toy_logits, image_shape=(16,), rounds=3, **GIVEN), {(0, 2): 60, (0, 3): TARGET}
    ),
    "force": Row(lambda m: force(m, loss_fn=_toy_loss, rounds=3, **GIVEN), {(0, 2): 60, (0, 3): TARGET}, reviving=True),
    "iterative_snip": Row(
        lambda m: force(m, loss_fn=_toy_loss, rounds=3, revive=False, **GIVEN), {(0, 2): 60, (0, 3): TARGET}
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
    "snfs": Row(
        lambda m: snfs(m, finetune=TUNE, every=2, **EPOCHS),
        {(1, 1): TARGET, (1, 2): TARGET, (1, 8): TARGET},
        reviving=True,
    ),
    "dsr": Row(
        lambda m: dsr(m, finetune=TUNE, every=2, threshold=0.2, doublings=1, **EPOCHS),
        {(1, 1): TARGET, (1, 2): TARGET, (1, 8): TARGET},
        reviving=True,
    ),
    "deep_r": Row(
        lambda m: deep_r(m, finetune=TUNE, l1=0.1, temperature=0.01, cooling=0.5, **EPOCHS),
        {(1, 1): TARGET, (1, 8): TARGET},
        reviving=True,
    ),
    "continuous_sparsification": Row(lambda m: continuous_sparsification(m, finetune=TUNE, **EPOCHS), {(1, 21): 176}),
    "supermask": Row(lambda m: supermask(m, finetune=TUNE, **EPOCHS), {(1, 21): NUM_PRUNABLE}),
    "parts: gmp with adam": Row(_gmp_with_adam, {(0, 8): TARGET}),
}


WITH_ROUNDS = ("gem_miner", "gmp", "set", "snfs", "dsr")


@pytest.fixture(scope="module")
def toy():
    return make_toy()


@pytest.fixture(scope="module")
def programs():
    with contract.programs() as shared:
        yield shared


@pytest.fixture(scope="module", params=list(METHODS))
def case(request, toy, programs):
    row = METHODS[request.param]
    yield contract.Case(toy, row, row.make(toy.ticket.mask))
    contract.forget(programs, but=(TUNE, DENSE))


@pytest.fixture(scope="module")
def alone(case, programs):
    return contract.run_alone(case, programs)


def test_counts_nesting_and_dead_weights(case, alone):
    contract.counts_nesting_and_dead_weights(case)


def test_the_carry_keeps_its_types_and_abstract_values_suffice(case):
    contract.the_carry_keeps_its_types(case)


def test_steps_between_rounds_have_no_control_flow(case):
    expected = case.row in [METHODS[name] for name in METHODS if name.startswith(WITH_ROUNDS)]
    assert contract.steps_between_rounds_have_no_control_flow(case) == expected


def test_scanned_many_and_sharded_runs_are_what_each_is_alone(case, alone, programs):
    assert contract.num_devices() == 8
    contract.scanned_many_and_sharded(case, alone, programs)


def test_restored_equals_uninterrupted(case, alone, tmp_path):
    contract.restored_equals_uninterrupted(case, alone, tmp_path)
