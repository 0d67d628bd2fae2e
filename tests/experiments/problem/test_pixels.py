"""--no-normalize: what the network is given are pixel values in [0, 1]."""

import json

import jax
import numpy as np
import pytest

from experiments.config.parse import parse
from experiments.config.saved import digest, fields_of, from_fields
from experiments.problem import evaluation
from experiments.problem.data import load_data
from experiments.problem.initial_ticket import check_pretrained, start
from experiments.problem.network import network_for
from experiments.problem.problem import make_problem
from rare_gems.storage import ticket_file


@pytest.mark.parametrize("flags", [[], ["--no-normalize"]], ids=["normalized", "as they are"])
def test_pixels(flags):
    config = parse("digits", ["--model=lenet_300_100", "--batch-size=32", *flags])[0]
    loaded = load_data(config)
    data = loaded.data
    assert data.note == ("not normalized" if flags else "")
    pixels = data.train.images.astype(np.float64) / 255
    mean, std = (0, 1) if flags else (pixels.mean(), pixels.std())
    tested = evaluation.batch_of(data, data.test, 0, 8).images
    np.testing.assert_allclose(tested, (data.test.images[:8] / 255 - mean) / std, atol=1e-4)
    feed = make_problem(loaded, config, None).feed
    key = jax.random.key(0)
    trained = feed.batch(feed.data, feed.order(key)[0], key).images
    lowest, highest = (np.min(trained), np.max(trained))
    np.testing.assert_allclose([lowest, highest], (np.array([0, 1]) - mean) / std, atol=1e-4)


def test_runs_of_older_versions_are_those_with_the_flag_on():
    config, other = (parse("digits", flags)[0] for flags in ([], ["--no-normalize"]))
    older = {name: value for name, value in fields_of(config).items() if name != "normalize"}
    assert digest(older) == digest(fields_of(config)) != digest(fields_of(other))
    assert from_fields(older) == config


SMALL = ["--model=lenet_300_100", "--sparsity=0.5"]


@pytest.mark.parametrize(("theirs", "ours"), [([], ["--no-normalize"]), (["--no-normalize"], []), ([], [])])
def test_a_run_that_begins_with_another_is_told_that_its_pixels_are_others(theirs, ours, tmp_path):
    before = parse("digits", ["--model=lenet_300_100", "--pruner=dense", *theirs])[0]
    model = network_for(before, (8, 8, 1), 10)
    begun = start(model, before)
    (tmp_path / "config.json").write_text(json.dumps(fields_of(before)))
    for name in ("ticket", "search"):
        ticket_file.save(tmp_path / f"{name}.safetensors", begun.ticket, metadata={}, model_state={})
    again = parse("digits", [*SMALL, "--pruner=ticket", f"--ticket.run={tmp_path}", *ours])[0]
    jackpot = parse("digits", [*SMALL, "--pruner=jackpot", "--epochs=1", f"--pretrained={tmp_path}", *ours])[0]
    flag = "--no-normalize" if theirs else "--normalize"
    expected = [f"; {flag} has them as there"] if theirs != ours else []
    for told in (start(model, again).notes, check_pretrained(jackpot)):
        assert [note[note.index(";") :] for note in told] == expected
