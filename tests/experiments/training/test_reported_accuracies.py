"""Top-5 accuracy where there are many classes; the best epoch of validation, with and without a finetuning."""

import csv
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.commands.program import run
from experiments.comparison import rows as comparison_rows
from experiments.comparison.expand import Combination
from experiments.config.parse import parse
from experiments.problem import evaluation
from experiments.run_folder import metrics_csv
from experiments.run_folder.summary import SearchResult
from experiments.training.measure import accuracies_before, may_be_best
from rare_gems.data.dataset import Dataset, Split
from rare_gems.models.model import Model
from rare_gems.phase import Ticket
from rare_gems.pruners.gem_miner_auto import gem_miner_auto
from tests.experiments.conftest import made_once


def test_top_5_against_numpy():
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (301, 2, 2, 1), np.uint8), rng.integers(0, 100, 301).astype(np.int32))
    data = Dataset("many", split, split, None, 100, (0.0,), (1.0,), 0, False, "")
    w = rng.normal(size=(2, 4, 100)).astype(np.float32)
    model = Model(lambda key: ({}, {}), lambda p, state, x, train: (x.reshape(x.shape[0], -1) @ p["w"], state))
    logits = [(split.images / 255).reshape(301, 4) @ one for one in w]
    ranks = [(x > np.take_along_axis(x, split.labels[:, None], 1)).sum(1) for x in logits]
    expected = [[(rank < top).mean() for top in (1, 5)] for rank in ranks]
    assert expected[0][0] < expected[0][1] < 0.2
    for whole in (True, False):
        made = evaluation.make_evaluation(model, data, whole=whole)
        np.testing.assert_allclose(made.ranked({"w": w[0]}, {}, split), expected[0], rtol=1e-6)
        np.testing.assert_allclose(made.one({"w": w[0]}, {}, split), expected[0][0], rtol=1e-6)
        np.testing.assert_allclose(made.ranked_many({"w": w}, {}, split), expected, rtol=1e-6)


def test_of_equal_logits_the_first_are_the_highest():
    logits = jnp.zeros((7, 7))
    assert evaluation.hits(logits, jnp.arange(7), top=5).tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert evaluation.hits(logits, jnp.arange(7)).tolist() == [1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("freeze", "names"), [(False, {"before_finetune"}), (True, {
    "before_finetune", "before_finetune_frozen", "before_finetune_rounded"})])  # fmt: skip
def test_of_a_search_that_freezes_nothing_only_the_mask_that_is_kept_has_an_accuracy(freeze, names):
    """The dense q of `gem_miner_auto` is no network that anybody asked for."""
    mask = [jnp.array([True, not freeze, True])]
    ticket = Ticket([jnp.array([1.0, 2.0, 4.0])], [jnp.array([0.9, 0.9, 0.1])], mask)
    search = gem_miner_auto(mask, sparsity=0.5, num_epochs=1, steps_per_epoch=3)[0]
    problem = types.SimpleNamespace(
        splits={"test": None}, accuracy=lambda params, *_: params[0].sum(),
        ranked=lambda params, *_: params[0].sum()[None],
    )  # fmt: skip
    found, run = SearchResult(ticket, {}, ticket.params), types.SimpleNamespace(recipe=(search,), key=jax.random.key(0))
    got = accuracies_before(run, problem, found, [jnp.array([True, False, False])])
    assert {name: value for name, value in got.items() if value is not None} == {
        name: {"before_finetune": 1.0, "before_finetune_frozen": 5.0, "before_finetune_rounded": 1.0}[name]
        for name in names
    }


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory):
    """Runs on a hundred classes of flat images, with validation images: finetuned, and a search alone."""

    def make(folder):
        for split, count in (("train", 3), ("test", 1)):
            for label in range(100):
                (folder / "images" / split / f"{label:02}").mkdir(parents=True)
                for i in range(count):
                    image = Image.fromarray(np.full((2, 2, 3), 2 * label + i, np.uint8))
                    image.save(folder / "images" / split / f"{label:02}" / f"{i}.png")
        common = [f"--data-dir={folder}/images", "--model=lenet_300_100", "--sparsity=0.5", "--batch-size=50",
                  "--validation-examples=100"]  # fmt: skip
        one = ["--pruner=random", "--finetune-epochs=2", f"--run-dir={folder}/finetuned"]
        other = ["--pruner=set", "--set.every=1", "--epochs=3", "--finetune-epochs=0", f"--run-dir={folder}/searched"]
        for own in (one, other):
            assert run("folder", [*common, *own]) == 0

    return made_once(tmp_path_factory, "many_classes", make)


def _accuracy(folder):
    return json.loads((folder / "summary.json").read_text())["accuracy"]


def test_many_classes_have_top_5_everywhere(many_classes):
    accuracy = _accuracy(many_classes / "finetuned")
    assert 0 <= accuracy["before_finetune"] <= accuracy["top5_before_finetune"] <= 1
    assert 0 <= accuracy["after_finetune"] <= accuracy["top5_after_finetune"] <= 1
    assert accuracy["best_validation"]["test"] <= accuracy["best_validation"]["test_top5"]
    with (many_classes / "finetuned" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[5:9] == ["validation_accuracy", "test_accuracy", "validation_top5_accuracy", "sparsity_frozen"]
    assert all(float(row["validation_accuracy"]) <= float(row["validation_top5_accuracy"]) for row in rows)
    searched = _accuracy(many_classes / "searched")
    assert searched["after_finetune"] is None
    assert "top5_after_finetune" not in searched


def test_without_a_finetuning_the_best_epoch_is_that_of_the_search(many_classes):
    best = _accuracy(many_classes / "searched")["best_validation"]
    with (many_classes / "searched" / "metrics.csv").open() as file:
        seen = [float(row["validation_accuracy"]) for row in csv.DictReader(file)]
    assert best["epoch"] == seen.index(max(seen)) + 1
    assert best["validation"] == pytest.approx(max(seen))


def test_tables_and_comparisons_have_them(many_classes, capsys):
    flags = ["--model=lenet_300_100", "--sparsity=0.5", "--batch-size=50", "--validation-examples=100"]
    args = [f"--data-dir={many_classes}/images", *flags, "--pruner=random", "--finetune-epochs=2"]
    assert run("folder", [*args, f"--run-dir={many_classes}/finetuned"]) == 0  # it is reported, not repeated
    shown = capsys.readouterr().out
    assert "top-5" in shown
    assert "at best" in shown
    config, _ = parse("folder", args)
    made = [Combination(config, many_classes / name, "random", "0.5") for name in ("finetuned", "searched")]
    rows = comparison_rows.rows_of(made, many_classes)
    read = list(csv.DictReader(comparison_rows.as_csv(rows).splitlines()))
    for row, name in zip(read, ("finetuned", "searched"), strict=True):
        accuracy = _accuracy(many_classes / name)
        assert float(row["at_best"]) == pytest.approx(accuracy["best_validation"]["test"])
        last = accuracy.get("top5_after_finetune", accuracy["top5_before_finetune"])
        assert float(row["top5"]) == pytest.approx(last)
    none = [row | {"at_best": None, "top5": None} for row in rows]
    assert not {"at_best", "top5"} & set(comparison_rows.as_csv(none).splitlines()[0].split(","))


def test_where_the_best_epoch_is_looked_for():
    search, tune, edit = (types.SimpleNamespace(name=n, num_steps=s) for n, s in
                          (("search", 3), ("finetune", 3), ("search", 0)))  # fmt: skip
    unasked = lambda: pytest.fail("it costs a transfer")  # noqa: E731
    assert [may_be_best((edit, search, tune), i, unasked, 5) for i in (1, 2)] == [False, True]
    assert not may_be_best((search, search), 0, unasked, 5)
    assert [may_be_best((edit, search, search, edit), 2, lambda n=n: n, 5) for n in (6, 5, 4)] == [False, True, True]


def test_columns_of_few_classes_stay():
    assert metrics_csv.columns(None) == metrics_csv.COLUMNS
    assert evaluation.tops_of(types.SimpleNamespace(num_classes=99)) == (1,)
    assert jax.eval_shape(evaluation.hits, jnp.zeros((3, 10)), jnp.zeros(3, jnp.int32)).shape == (3,)
