"""Names of run folders stay when a method gets another option."""

import pytest

from experiments.config.parse import parse
from experiments.config.saved import digest, fields_of, from_fields

LATER = {
    "gem_miner": ([], {"freeze_at": "paper", "at_least": 1}),
    "grasp": ([], {"at_least": 1}),
    "jackpot": (["--pretrained=dense"], {"start": "uniform", "budgets": "layer"}),
    "magnitude": ([], {"at_least": 1}),
    "smart_ratio": ([], {"decay": "linear"}),
    "snip": ([], {"at_least": 1}),
}


@pytest.mark.parametrize("pruner", LATER)
def test_options_that_older_versions_did_not_have(pruner):
    flags, others = LATER[pruner]
    config = parse("digits", [f"--pruner={pruner}", *flags])[0]
    fields = fields_of(config)
    older = fields | {pruner: {name: value for name, value in fields[pruner].items() if name not in others}}
    assert len(older[pruner]) == len(fields[pruner]) - len(others)
    assert digest(older) == digest(fields)
    assert from_fields(older) == config
    for name, value in others.items():
        other = parse("digits", [f"--pruner={pruner}", *flags, f"--{pruner}.{name}={value}".replace("_", "-")])[0]
        assert digest(fields_of(other)) != digest(fields)


def test_an_older_run_of_gem_miner_auto_did_not_drop_what_is_unused():
    """The first option whose default is not what older versions did."""
    config, as_before = (
        parse("digits", ["--pruner=gem_miner_auto", *flags])[0] for flags in ([], ["--gem-miner-auto.no-drop-unused"])
    )
    fields = fields_of(as_before)
    older = fields | {"gem_miner_auto": {k: v for k, v in fields["gem_miner_auto"].items() if k != "drop_unused"}}
    assert from_fields(older) == as_before
    assert digest(older) == digest(fields) != digest(fields_of(config))
