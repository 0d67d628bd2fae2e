"""The memory of a run, estimated: against a case worked by hand, and against what XLA takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config.config import Config
from experiments.problem import evaluation
from experiments.problem.data import load_data
from experiments.problem.initial_ticket import initial_ticket, run_key
from experiments.problem.problem import make_problem
from experiments.training import memory
from experiments.training.run import Run
from experiments.training.stacking import EACH
from rare_gems.models.model import Model
from rare_gems.pruners.gem_miner import search
from rare_gems.training import sharding, trainer


@pytest.fixture(scope="module")
def digits():
    config = Config("digits", model="lenet_300_100", batch_size=200)
    problem = make_problem(load_data(config), config)
    ticket, state = jax.eval_shape(lambda: initial_ticket(problem.model, config))
    recipe = (search(ticket.mask, sparsity=0.5, num_epochs=10, steps_per_epoch=problem.feed.num_batches),)
    return Run("digits", recipe, ticket, state, run_key(config), (problem.feed,)), problem


@pytest.mark.parametrize("runs", [1, 4])
def test_the_estimate_is_near_what_xla_takes(digits, runs):
    run, problem = digits
    step = trainer.make_step(problem.loss_fn, run.recipe[0])
    begin = functools.partial(trainer.begin, run.recipe[0])
    carry = jax.eval_shape(begin, run.ticket, run.model_state, run.key)
    batch = jax.eval_shape(lambda key: problem.feed.batch(problem.feed.data, problem.feed.order(key)[0], key), run.key)
    estimate = runs * memory.peak_bytes(step, carry, batch)
    if runs > 1:
        step = jax.vmap(step, in_axes=(EACH, 0), out_axes=EACH)
        shape = lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype)  # noqa: E731
        carry, batch = trainer.Carry(carry.step, *jax.tree.map(shape, carry[1:])), jax.tree.map(shape, batch)
    told = jax.jit(step, donate_argnums=0).lower(carry, batch).compile().memory_analysis()
    taken = told.temp_size_in_bytes + told.argument_size_in_bytes + told.output_size_in_bytes
    assert 0.7 <= estimate / (taken - told.alias_size_in_bytes) <= 2
    assert runs * memory.bytes_per_run(run, problem) > estimate  # what outlives a step is in it too


def test_by_hand():
    x = jnp.zeros(1000)  # 4000 bytes: x and x + 1 are alive at once, then x + 1 and its double, never all three
    assert memory.peak_bytes(lambda x: ((x + 1) * 2).sum(), x) == 4000 + 1.5 * 4000
    kept = memory.peak_bytes(lambda x: ((y := x + 1) * 2).sum() + y.max(), x)
    assert kept == 4000 + 1.5 * 4004  # x + 1 outlives its double and the sum, x does not
    assert memory.peak_bytes(lambda x: ((x + 1) * x).sum(), x) == 4000 + 1.5 * 8000
    assert memory.peak_bytes(jax.jit(lambda x: ((x + 1) * 2).sum()), x) == 4000 + 1.5 * 8000  # the caller holds x
    assert memory.tree_bytes((x, None, jax.random.key(0), jnp.int8(0))) == 4009
    assert memory.tree_bytes(jax.random.split(jax.random.key(0, impl="rbg"), 3)) == 48


def test_evaluation_is_of_one_batch(digits):
    run, problem = digits  # 360 images, and their 784 = 8 x 8 pixels as float32
    assert 360 * 64 * 4 < memory.evaluation_bytes(run, problem) < 3 * 360 * (64 + 300) * 4 * 1.5


def test_most_runs():
    assert memory.most_runs(per_run=100, shared=0, free=1000) == 9  # of nine tenths
    assert memory.most_runs(per_run=100, shared=200, free=500, headroom=1) == 3
    assert memory.most_runs(per_run=100, shared=0, free=300, num_devices=4) == 8
    assert memory.most_runs(per_run=100, shared=0, free=10, num_devices=2) == 2
    assert memory.most_runs(per_run=100, shared=0, free=None) is None


def test_free_bytes(monkeypatch, tmp_path):
    assert 2**26 < (memory.free_bytes() or 0) < 2**50
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:  300 kB\n")
    assert memory._available(tmp_path / "meminfo") == 300 * 1024
    assert memory._available(tmp_path / "none") is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert memory._left_in_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("500\n")
    assert memory._left_in_container(tmp_path) == 400

    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    full = {"bytes_limit": 100, "bytes_in_use": 70}
    monkeypatch.setattr(jax, "local_devices", lambda: [Device({"bytes_limit": 100}), Device(full)])
    assert memory.free_bytes() == 30
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(full), Device(None)])
    assert memory.free_bytes() is None


def test_runs_that_do_not_fit_are_told(digits, monkeypatch, capsys):
    run, problem = digits
    need = memory.bytes_per_run(run, problem), memory.evaluation_bytes(run, problem)
    monkeypatch.setattr(memory, "free_bytes", lambda: int((2.5 * need[0] + need[1]) / 0.9))
    assert [memory.fitting(run, problem, runs) for runs in (1, 2)] == [1, 2]
    assert capsys.readouterr().err == ""
    assert memory.fitting(run, problem, 5) == 2
    assert "memory: 2 of 5 runs train at once" in capsys.readouterr().err
    monkeypatch.setattr(memory, "free_bytes", lambda: need[0] // 2)
    assert memory.fitting(run, problem, 2) == 1
    assert "less than one needs" in capsys.readouterr().err


def test_both_ways_to_evaluate_count_the_same(digits):
    """One call of the device, and a loop over parts; of one network and of several."""
    data = digits[1].data
    linear = lambda params, state, x, train: (x.reshape(x.shape[0], -1) @ params["w"] + state, state)  # noqa: E731
    model = Model(lambda key: ({}, {}), linear)
    small = data.train._replace(images=data.train.images[:701], labels=data.train.labels[:701])
    w, state = np.random.default_rng(0).normal(size=(3, 64, 10)).astype(np.float32), np.zeros((3, 1, 10), np.float32)
    pixels = ((small.images / 255 - data.mean[0]) / data.std[0]).reshape(701, 64)
    expected = [((pixels @ one).argmax(-1) == small.labels).mean() for one in w]
    assert len(set(expected)) == 3
    for whole in (True, False):
        alone, rows, runs = (evaluation.make_evaluation(model, data, whole=whole, mesh=mesh) for mesh in _meshes())
        for way in (alone, rows):
            np.testing.assert_allclose(way.one({"w": w[1]}, state[1], small), expected[1], rtol=1e-6)
        for way in (alone, runs):
            np.testing.assert_allclose(way.many({"w": w}, state, small), expected, rtol=1e-6)


def _meshes():
    """None; four devices that share each batch; three with a run each."""
    return None, sharding.make_mesh(jax.devices()[:4]), sharding.make_mesh(jax.devices()[:3], runs=3)


def test_batch_sizes():
    size = evaluation.batch_size
    assert [size(10_000, 32, runs, whole=True) for runs in (1, 8)] == [2000, 250]
    assert [size(10_000, 32, whole=False), size(510, 32, whole=False)] == [500, 255]
    assert size(10, 10_000, runs=8, whole=True) == 1
    assert size(1000, 32, whole=True, multiple=64) == 1024
