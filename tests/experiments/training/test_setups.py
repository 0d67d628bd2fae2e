"""Runs that differ in seeds alone have one recipe, and so one set of compiled programs."""

import dataclasses

from experiments.catalog.sanity_checks import CHECKS
from experiments.config.parse import parse
from experiments.config.saved import without_free
from experiments.training import setups
from tests.experiments.conftest import SMALL


def test_seeds_share_recipe_and_programs_and_nothing_else_does():
    config = without_free(parse("digits", [f for f in SMALL if not f.startswith("--train-examples")])[0])
    other = [dataclasses.replace(config, **changed) for changed in ({"seed": 7}, {"learning_rate": 0.07})]
    (a, b, c) = (setups.search_run(setups.setup_of(each), None) for each in (config, *other))
    assert a.recipe is b.recipe
    assert a.programs is b.programs
    assert a.recipe is not c.recipe
    assert a.programs is not c.programs
    inverted = setups.search_run(setups.setup_of(config), CHECKS["invert"])
    assert inverted.recipe is not a.recipe
