"""--training.* and --finetune.*: what they make of the phases, what the finetuning inherits, what is refused."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.training import TrainingOptions, descent_of, inherited
from experiments.commands.program import run
from experiments.comparison.columns import of_pruners, paired
from experiments.comparison.expand import Asked, expand
from experiments.config import sweep
from experiments.config.parse import parse
from experiments.config.saved import digest, fields_of, from_fields
from experiments.problem.problem import make_loss
from experiments.problem.recipe import plan_of
from experiments.problem.training import spelled
from experiments.terminal.errors import UsageError
from rare_gems.data.device_batches import Batch
from rare_gems.models.model import Model

LENET = ["--model=lenet_300_100", "--finetune-epochs=4"]


def config_of(*args, dataset="digits"):
    return parse(dataset, [*LENET, *args])[0]


def has_adam(phase):
    state = phase.optimizer.init({"w": jnp.ones(2)})
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))
    return any(isinstance(node, optax.ScaleByAdamState) for node in nodes)


def moves(phase):
    """Whether the phase trains: one that only scores has an optimizer without state."""
    return bool(jax.tree.leaves(phase.optimizer.init([jnp.ones(2)])))


@pytest.mark.parametrize("pruner", [name for name, row in PRUNERS.items() if row.trains == "weights"])
def test_every_method_that_trains_weights_takes_them(pruner):
    own = ["--hybrid.linear=None"] if pruner == "hybrid" else []
    own += ["--sparsity=0.9"] if PRUNERS[pruner].removes else []
    flags = [f"--pruner={pruner}", *own, "--training.optimizer=adam", "--training.label-smoothing=0.1"]
    both = [*flags, "--finetune.optimizer=sgd", "--finetune.label-smoothing=0"]
    if pruner == "dense":  # it has no search, and is trained by the finetuning
        with pytest.raises(
            UsageError, match="the search of dense trains no weights, and the finetuning has --finetune"
        ):
            config_of(*both)
        both = [flag for flag in both if not flag.startswith("--training.")]
    recipe = plan_of(config_of(*both)).recipe
    trained = [phase for phase in recipe if phase.num_steps and moves(phase)]
    assert len(trained) == (1 if pruner == "dense" else len(trained))
    for phase in trained:
        assert phase.trains == "params"
        assert has_adam(phase) == (phase.name != "finetune")
        assert (phase.loss_fn is None) == (phase.name == "finetune")
    assert all(has_adam(p) and p.loss_fn for p in plan_of(config_of(*flags)).recipe if p.num_steps and moves(p))


@pytest.mark.parametrize("pruner", ["gem_miner", "edge_popup", "snip", "random"])
def test_the_search_of_scores_stays_and_the_finetuning_takes_them(pruner):
    recipe = plan_of(config_of(f"--pruner={pruner}", "--training.optimizer=adam")).recipe
    assert [has_adam(phase) for phase in recipe if phase.num_steps and phase.trains == "scores"] in ([], [False])
    assert has_adam(recipe[-1])


def test_the_finetuning_is_as_the_search_where_it_says_nothing():
    search = TrainingOptions(
        optimizer="rmsprop", epsilon=1.0, milestones="3,5", decay_factor=0.5, warmup_steps=7, label_smoothing=0.1
    )
    assert inherited(TrainingOptions(), search) == search
    own = inherited(TrainingOptions(optimizer="adam", schedule="linear", warmup_epochs=0), search)
    assert own == TrainingOptions(optimizer="adam", schedule="linear", warmup_epochs=0, label_smoothing=0.1)
    assert inherited(TrainingOptions(milestone_steps="9"), search).milestones is None
    # what a preset gives to the schedule that it names does no harm where a flag names another
    assert descent_of(TrainingOptions(schedule="cosine", milestones="3,5")).milestones is None


def test_labels_are_smoothed():
    logits = jnp.array([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]])
    model = Model(lambda key: None, lambda params, state, images, train: (logits, state))
    batch = Batch(jnp.zeros((2, 1)), jnp.array([0, 2]), jnp.ones(2))
    loss, _ = make_loss(model, smoothing=0.3)(None, None, batch, jax.random.key(0))
    x = np.asarray(logits, np.float64)
    logs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    labels = 0.7 * np.eye(3)[[0, 2]] + 0.1
    np.testing.assert_allclose(loss, -(labels * logs).sum(axis=1).mean(), rtol=1e-6)


def test_names_of_folders_stay_and_files_come_back():
    old = fields_of(config_of("--pruner=imp"))
    older = {name: value for name, value in old.items() if name not in ("training", "finetune")}
    assert digest(older) == digest(old)
    assert from_fields(older) == from_fields(old)
    new = config_of("--pruner=imp", "--training.optimizer=adam", "--imp.decay", "--finetune.milestones=1,3")
    assert from_fields(fields_of(new)) == new
    assert digest(fields_of(new)) != digest(old)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "SGD, momentum 0.9, rate 0.1, times 0.1 from epoch 2; weight decay 0.0001"),
        (["--training.optimizer=adamw", "--training.schedule=cosine", "--training.weight-decay-of=kernels"],
         "AdamW, rate 0.1, cosine to 0; weight decay 0.0001 of kernels"),
        (["--training.milestone-steps=100", "--training.decay-factor=0.5", "--training.warmup-steps=9"],
         "SGD, momentum 0.9, rate 0.1, times 0.5 from step 100, from 0 in 9 steps; weight decay 0.0001"),
        (["--finetune.schedule=constant", "--finetune.optimizer=nesterov", "--finetune.label-smoothing=0.1"],
         "SGD with Nesterov's momentum, momentum 0.9, rate 0.1, constant; weight decay 0.0001; labels smoothed by 0.1"),
    ],
)  # fmt: skip
def test_spelled(flags, words):
    assert spelled(config_of("--pruner=dense", *flags), "finetune") == words


MISTAKES = {
    ("dense", "--training.milestones=3,2"): "--training.milestones: expected ascending epochs from 1 to 3, got 3,2, in",
    ("dense", "--finetune.milestones=4"): "--finetune.milestones: expected ascending epochs from 1 to 3, got 4, in the "
    "finetuning of 4 epochs",
    ("dense", "--training.milestones=soon"): "--training.milestones: expected integers separated by commas, such as",
    ("dense", "--training.milestone-steps=180"): "--training.milestone-steps: expected ascending steps from 1 to 179",
    ("dense", "--training.warmup-epochs=-1"): "--training.warmup-epochs: expected from 0 to 3",
    ("dense", "--finetune.warmup-steps=180"): "--finetune.warmup-steps: expected from 0 to 179 of 180 steps",
    ("dense", "--training.end-rate=0"): "--training.end-rate: not used by the schedule multistep; expected "
    "--training.schedule=cosine or linear or exponential",
    ("dense", "--training.schedule=exponential"): "--training.end-rate: expected a positive number",
    ("dense", "--training.epsilon=1"): "--training.epsilon: not used by sgd; expected --training.optimizer=adam or",
    ("dense", "--training.label-smoothing=1"): r"--training.label-smoothing: expected a number in \[0, 1\), got 1.0",
    ("dense", "--training.optimizer=lion"): "expected one of adam, adamw",
    ("dense", "--training.optimiser=adam"): "--training.optimiser: there is no such flag; the nearest is "
    "--training.optimizer",
    ("imp", "--training.schedule=cosine --finetune.schedule=constant"): "--training.schedule: the rate of the rounds "
    "is constant with --imp.no-decay; expected --imp.decay with it",
    ("snip", "--training.optimizer=adam --finetune-epochs=0"): "--training.optimizer: snip trains no weights",
    ("rigl", "--finetune.optimizer=adam --finetune-epochs=0"): "--finetune.optimizer: there is no finetuning",
    ("imp", "--imp.rewind-step=180 --imp.round-epochs=9"): "--imp.rewind-step: expected at most 179, since the ticket",
    ("dense", "--training.optimizer=adam --momentum=0.5"): "--momentum: not used by adam",
    ("dense", "--training.optimizer=nesterov --momentum=0"): "--training.optimizer: expected a momentum above 0",
    ("dense", "--training.milestones=1 --training.milestone-steps=9"): "expected milestones in epochs or in steps",
    ("dense", "--training.schedule=exponential --training.end-rate=0"): "--training.end-rate: expected a number above",
}  # fmt: skip


@pytest.mark.parametrize("pruner", ["imp", "lrr", "magnitude"])
def test_the_finetuning_takes_what_is_said_of_training_also_where_rounds_do_not(pruner):
    """A comparison left it out for some of its methods, without a word."""
    flags = paired(["--training.schedule=cosine"])
    asked = Asked(dataset="digits", columns=of_pruners([pruner]), sparsities=["0.9"], seeds=range(1), flags=flags)
    made = expand(asked, lambda *_: Path("x")).combinations
    (config,) = [each.config for each in made if each.column == pruner]
    assert spelled(config, "finetune") == "SGD, momentum 0.9, rate 0.1, cosine to 0; weight decay 0.0001"


@pytest.mark.parametrize(("pruner", "flags"), MISTAKES)
def test_mistakes(pruner, flags, tmp_path, capsys):
    assert run("digits", [*LENET, f"--pruner={pruner}", *flags.split(), f"--run-dir={tmp_path}/run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(MISTAKES[pruner, flags].replace("--", "-{2}"), error), error
    assert not (tmp_path / "run").exists()


def rates_of(phase):
    """The rate of each step, read off what a gradient of one moves a weight by."""
    w, moved = [jnp.zeros(())], []
    state, update = phase.optimizer.init(w), jax.jit(phase.optimizer.update)
    for _ in range(phase.num_steps):
        (change,), state = update([jnp.ones(())], state, w)
        moved.append(-float(change))
    return moved


@pytest.mark.parametrize(
    ("pruner", "flags"),
    [("imp", ["--imp.decay", "--imp.round-epochs=4"]), ("imp", ["--imp.no-decay", "--imp.round-epochs=4"]),
     ("lottery_ticket", ["--epochs=4"])],
)  # fmt: skip
def test_a_rewound_ticket_trains_from_its_step(pruner, flags):
    """Steps k to T of the schedule: warm-up and milestones come when they would have come without the rewinding."""
    dashed = pruner.replace("_", "-")
    args = [f"--pruner={pruner}", "--sparsity=0.8", "--momentum=0", "--weight-decay=0", "--batch-size=288", *flags]
    args += ["--finetune.milestones=2,3", "--finetune.warmup-steps=7"]  # 5 steps an epoch
    cold = plan_of(config_of(*args, f"--{dashed}.rewind-step=0")).recipe
    warm = plan_of(config_of(*args, f"--{dashed}.rewind-step=6")).recipe
    assert [phase.num_steps for phase in warm] == [6, *(14 for _ in cold[:-1]), 14]
    whole = rates_of(cold[-1])
    assert len(whole) == 20
    assert rates_of(warm[-1]) == whole[6:]
    assert whole[6:11] == pytest.approx([0.1 * 6 / 7, *[0.1] * 3, 0.01])
    if pruner == "imp":
        assert rates_of(warm[1]) == rates_of(cold[0])[6:]


def test_cold_tickets_train_as_long_as_ever_and_warm_ones_so_much_less(capsys):
    flags = ["--pruner=imp", "--imp.round-epochs=150", "--finetune-epochs=150", "--dry-run"]
    assert run("cifar10", [*flags, "--imp.rewind-step=0"]) == 0
    assert "search: 19 times 150 epochs of 391 steps" in capsys.readouterr().out  # 2850, as Rare Gems counts
    assert run("cifar10", [*flags, "--imp.rewind-step=1000"]) == 0
    told = capsys.readouterr().out
    assert "search: 19 times 147 epochs of 391 steps and 173 steps" in told
    assert "finetune: 147 epochs of 391 steps and 173 steps" in told


def test_sweeps_and_comparisons_take_them(tmp_path, capsys):
    members = sweep.expand("digits", [*LENET, "--pruner=dense", "--sweep.training.optimizer=sgd,adam"])
    assert [member.config.training.optimizer for member in members] == ["sgd", "adam"]
    flags = ["--model=lenet_300_100", "--finetune-epochs=4", "--training.schedule=cosine", "--dry-run"]
    compared = ["digits", "--pruners=set,random", "--sparsities=0.9", *flags, f"--run-dir={tmp_path}"]
    assert run("compare", compared) == 0
    assert run("compare", [*compared, "--finetune.milestones=9"]) == 2  # of a schedule that none has
    assert "--finetune.milestones: none of set, random takes it" in capsys.readouterr().err


def test_momentum_is_used_where_scores_train():
    assert config_of("--pruner=gem_miner", "--training.optimizer=adam", "--momentum=0.5").momentum == 0.5
