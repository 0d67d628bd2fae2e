"""rare_gems.training.optimizer: every public optimizer of optax keeps the dead at zero in a phase, or is refused."""

import inspect
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from rare_gems import masks, transforms, views
from rare_gems.phase import Phase, Ticket, Transform
from rare_gems.training import hyperparams, optimizer, trainer
from tests.toy import make_toy

RNG = np.random.default_rng(0)
WEIGHTS, TARGETS = (
    {"kernel": jnp.float32(RNG.normal(size=(4, 3))), "bias": jnp.float32(RNG.normal(size=3))} for _ in range(2)
)
BEGIN = np.arange(12).reshape(4, 3) % 4 != 0  # nine of twelve weights are kept, after the first step six
LATER = BEGIN & (np.arange(12).reshape(4, 3) % 3 != 0)
TICKET = Ticket(WEIGHTS, {"kernel": WEIGHTS["kernel"], "bias": None}, {"kernel": jnp.array(BEGIN), "bias": None})
KEY = jax.random.key(3)
KERNEL, LABELS = {"kernel": True, "bias": False}, {"kernel": "a", "bias": "b"}
SGD = optax.sgd(0.1, momentum=0.9)
C = optax.contrib


def _all(names, *args, **options):
    """Those that this optax has of the optimizers of these names, made alike; optax.contrib's begin with "contrib."."""
    make = lambda name: getattr(C if name.startswith("contrib.") else optax, name.split(".")[-1], None)  # noqa: E731
    return {name: lambda name=name: make(name)(*args, **options) for name in names.split() if make(name)}


# Public optimizers and wrappers that train a phase, as they are made here.
WORKS = {
    **_all("adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam "
           "nadamw novograd optimistic_adam optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam rmsprop "
           "rprop sgd sign_sgd signum sm3 yogi contrib.acprop contrib.ademamix contrib.adopt contrib.cocob "
           "contrib.dadapt_adamw contrib.dog contrib.dowg contrib.madgrad contrib.momo contrib.momo_adam contrib.muon "
           "contrib.prodigy contrib.schedule_free_adamw contrib.schedule_free_sgd contrib.simplified_ademamix", 0.1),
    **_all("noisy_sgd", 0.1, key=KEY),
    **_all("lbfgs", memory_size=1),
    **_all("contrib.galore", 0.1, rank=2),
    **_all("apply_if_finite", SGD, 3),
    **_all("flatten contrib.split_real_and_imaginary contrib.mechanize with_extra_args_support", SGD),
    **_all("masked", optax.sm3(0.1), KERNEL),
    **_all("partition multi_transform", {"a": optax.sm3(0.1), "b": C.momo_adam(0.1)}, LABELS),
    **_all("chain", optax.clip(1.0), optax.add_decayed_weights(0.1), SGD, C.reduce_on_plateau()),
    **_all("named_chain", ("one", optax.scale_by_adam()), ("two", optax.scale(-0.1))),
    **_all("conditionally_mask conditionally_transform", SGD, lambda step: step > 0),
    **_all("contrib.schedule_free", SGD, 0.1),
    **_all("contrib.sam", SGD, optax.chain(C.normalize(), optax.sgd(0.01))),
    **_all("scale_by_backtracking_linesearch", max_backtracking_steps=2),
    **_all("selective_transform", SGD, freeze_mask={"kernel": False, "bias": True}),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=lambda step: 0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(learning_rate=0.1),
    "MultiSteps": lambda: optax.MultiSteps(SGD, 2),
}  # fmt: skip

# What a phase cannot give them, as the refusal says it.
REFUSED = {
    **{name: (make, "obj_fn must be provided") for name, make in (  # a loss to take Hessian products of
        _all("contrib.sophia", 0.1) | _all("contrib.hutchinson_estimator_diag_hessian", KEY)).items()},
    **{name: (make, "per-example|batch") for name, make in (  # gradients of each example
        _all("contrib.dpsgd", 0.1, 1.0, 1.0, 0) | _all("contrib.differentially_private_aggregate", 1.0, 1.0, KEY)
    ).items()},
    "lookahead": (lambda: optax.lookahead(SGD, 2, 0.5), "no attribute 'fast'"),  # trains pairs of parameters
    "contrib.sam, opaque": (lambda: C.sam(SGD, SGD, opaque_mode=True), "grad_fn must be provided"),
    "contrib.scale_by_muon": (C.scale_by_muon, "(Index|Value)Error"),  # matrices only; `muon` splits the rest off
}  # fmt: skip

# Links of a chain, of which the optimizers above are made; and functions that make no transformation.
LINKS = """
    adaptive_grad_clip add_decayed_weights add_noise apply_every centralize clip clip_by_block_rms
    clip_by_global_norm ema freeze identity keep_params_nonnegative measure_with_ema monitor
    normalize_by_update_norm scale scale_by_adadelta scale_by_adam scale_by_adamax scale_by_adan scale_by_amsgrad
    scale_by_belief scale_by_distance_over_gradients scale_by_factored_rms scale_by_lbfgs scale_by_learning_rate
    scale_by_lion scale_by_novograd scale_by_optimistic_gradient scale_by_param_block_norm scale_by_param_block_rms
    scale_by_polyak scale_by_radam scale_by_rms scale_by_rprop scale_by_rss scale_by_schedule scale_by_sign
    scale_by_sm3 scale_by_stddev scale_by_trust_ratio scale_by_yogi scale_by_zoom_linesearch set_to_zero snapshot
    stateless stateless_with_tree_map trace zero_nans contrib.normalize contrib.reduce_on_plateau
    contrib.scale_by_acprop contrib.scale_by_ademamix contrib.scale_by_adopt contrib.scale_by_cocob
    contrib.scale_by_galore contrib.scale_by_madgrad contrib.scale_by_simplified_ademamix bias_correction
    matrix_inverse_pth_root sigmoid_binary_cross_entropy update_infinity_moment update_moment
    update_moment_per_elem_norm contrib.schedule_free_eval_params
"""


def _loss(params, state, batch, key):
    del key
    return sum(jnp.sum(jnp.square(batch * params[n] - TARGETS[n])) for n in TARGETS), (state, jnp.float32(0))


def _quiet(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what optax is about to take away still has to work
        return make()


def _phase(made, trains="params"):
    later = {"kernel": jnp.array(LATER), "bias": None}
    die = Transform(lambda ticket: (), lambda ticket, state, context: (ticket._replace(mask=later), state))
    return Phase(views.masked if trains == "params" else views.rounded, trains, made, die, transforms.identity(), 3)


def _train(made, trains="params", batches=(1.0, 0.5), compiled=False):
    """Carries after each step. Step by step, operation by operation: sixty optimizers are not worth compiling."""
    phase = _phase(made, trains)
    optimizer.check(made, getattr(TICKET, trains), phase.name)
    carry = trainer.begin(phase, TICKET, {}, KEY)
    step = trainer.make_step(_loss, phase)
    step = jax.jit(step) if compiled else step
    for batch in batches:
        before, carry = carry, step(carry, jnp.float32(batch))
        assert jax.tree.structure(before) == jax.tree.structure(carry)
        yield carry


def _check_dead(carry, trains="params"):
    """Every array named "kernel" in the shape of the kernel is zero where the mask is: weights and slots."""
    held = carry.opt_state if trains == "scores" else (carry.ticket.params, carry.opt_state)
    found = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(held)
        if "'kernel'" in jax.tree_util.keystr(path) and jnp.shape(leaf) == LATER.shape
    ]  # fmt: skip
    for leaf in found:
        np.testing.assert_array_equal(np.asarray(leaf)[~LATER], 0)
    return len(found)


@pytest.mark.parametrize("name", WORKS)
def test_dead_weights_and_their_slots_stay_zero(name):
    *_, carry = _train(_quiet(WORKS[name]), compiled=name == "lbfgs")
    assert _check_dead(carry) >= 1
    kernel = np.asarray(carry.ticket.params["kernel"])
    assert np.isfinite(kernel).all()
    assert (kernel[LATER] != np.asarray(WEIGHTS["kernel"])[LATER]).any()


@pytest.mark.parametrize("name", ["sm3", "masked", "adamw", "MultiSteps"])
def test_scores_train_alike(name):
    """Scores have None where a leaf is not prunable."""
    made = optax.masked(optax.sm3(0.1), {"kernel": True, "bias": None}) if name == "masked" else WORKS[name]()
    *_, carry = _train(made, "scores")
    assert _check_dead(carry, "scores") >= 1
    assert (carry.ticket.scores["kernel"] != TICKET.scores["kernel"])[LATER].all()


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_phase_cannot_give_is_refused_before_the_first_step(name):
    make, reason = REFUSED[name]
    recipe = (transforms.edit(), _phase(optax.sgd(0.1)), _phase(_quiet(make))._replace(name="late"))
    with pytest.raises(ValueError, match=rf"(?s)phase 'late': optimizer: expected one that needs .*{reason}"):
        next(trainer.epochs(recipe, TICKET, {}, loss_fn=_never, feed=make_toy().feed, key=KEY))


def _never(*args):
    raise AssertionError("a step was traced")


def test_a_state_that_changes_its_shape_is_refused():
    grows = optax.GradientTransformation(lambda p: jnp.zeros(1), lambda g, s, p=None: (g, jnp.zeros(len(s) + 1)))
    with pytest.raises(ValueError, match=r"phase 'search': optimizer: expected its state to keep its shapes"):
        optimizer.check(grows, WEIGHTS, "search")


def test_every_public_optimizer_is_listed():
    found = {"MultiSteps"}
    for module, prefix in ((optax, ""), (optax.contrib, "contrib.")):
        for name, value in vars(module).items():
            if name.startswith("_") or not (inspect.isroutine(inspect.unwrap(value)) or isinstance(value, partial)):
                continue
            returns = inspect.signature(value).return_annotation
            if returns is inspect.Signature.empty or "GradientTransformation" in str(returns):
                found.add(prefix + name)
    assert found - WORKS.keys() - REFUSED.keys() - set(LINKS.split()) == set()


def test_the_loss_and_its_gradient_reach_the_optimizer():
    """Polyak's step is (L - 0) / |g|^2; the plateau rule remembers the lowest loss; both where they are nested, too."""
    carries = list(_train(optax.polyak_sgd(max_learning_rate=10.0)))
    (kernel, bias), (to, to_bias) = (map(np.float64, (tree["kernel"], tree["bias"])) for tree in (WEIGHTS, TARGETS))
    off, off_bias = kernel * BEGIN - to, bias - to_bias
    loss, grad, grad_bias = (off**2).sum() + (off_bias**2).sum(), 2 * off * BEGIN, 2 * off_bias
    rate = loss / ((grad**2).sum() + (grad_bias**2).sum())
    expected = (kernel - rate * grad) * LATER
    np.testing.assert_allclose(carries[0].ticket.params["kernel"], expected, rtol=1e-5, atol=1e-6)
    plateau = lambda learning_rate: optax.chain(optax.sgd(learning_rate), C.reduce_on_plateau())  # noqa: E731
    made = hyperparams.optimizer(plateau, learning_rate=0.01)
    carries = list(_train(optax.apply_if_finite(optax.masked(made, {"kernel": True, "bias": True}), 3)))
    losses = np.diff([0.0, *(float(carry.totals.loss) for carry in carries)])
    np.testing.assert_allclose(optax.tree.get(carries[-1].opt_state, "best_value"), losses.min(), rtol=1e-5)


def test_a_line_search_sees_the_loss_of_the_batch():
    """A step a hundred times too long is cut back until the loss falls; the network sees no dead weight meanwhile."""
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=30, decrease_factor=0.5)
    first, second = _train(optax.chain(optax.sgd(100.0), search), batches=(1.0, 1.0))
    assert 0 < float(second.totals.loss - first.totals.loss) < float(first.totals.loss)


def test_slots_of_other_shapes_are_left():
    """A bare array is its own tree; a list of one-dimensional leaves looks like SM3's list of slots."""
    mask = jnp.array([True, False, True])
    held = optimizer.hold(optax.TraceState(jnp.ones(3)), jnp.ones(3), mask)
    assert held.trace.tolist() == [1, 0, 1]
    trained = [jnp.ones(3), jnp.ones(3)]
    state = optax.scale_by_sm3().init(trained)._replace(nu=trained)
    held = optimizer.hold(state, trained, [mask, None])
    assert [leaf.tolist() for leaf in held.nu] == [[1, 0, 1], [1, 1, 1]]
    assert masks.num_prunable(held.mu) == 6
    rows = optax.FactoredState(jnp.int32(0), [jnp.ones(2)] * 2, [jnp.ones(3)] * 2, [jnp.ones(1)] * 2)
    assert optimizer.hold(rows, trained, [mask, mask]).v_row[0].tolist() == [1, 1]
    made = hyperparams.optimizer(lambda rates: optax.trace(rates[0]), rates=[0.9, 0.5, 0.1]).init(jnp.ones(3))
    held = optimizer.hold(made._replace(inner=optax.TraceState(jnp.ones(3))), jnp.ones(3), mask)
    assert np.ravel(jax.tree.leaves(held.numbers)).tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert held.inner.trace.tolist() == [1, 0, 1]
    numbers = {"rates": jnp.ones(3)}  # in one array, of the shape of the weights
    assert optimizer.hold(made._replace(numbers=numbers), jnp.ones(3), mask).numbers["rates"].tolist() == [1, 1, 1]
