"""Pairs of runs are recognised by what they asked, and measured as NumPy does."""

import jax
import numpy as np
import pytest

from experiments.analyses import lines, measures, stability
from experiments.analyses.dead_weights import dead_weights
from experiments.analyses.networks import networks_of, whole_rounds
from experiments.terminal.errors import UsageError
from rare_gems import masks
from tests.experiments.analyses.folders import START, make_run, mask_of, moved

IMP = ["--pruner=imp", "--imp.round-epochs=3", "--keep=rounds", "--learning-rate=0.1", "--finetune-learning-rate=0.1",
       "--weight-decay=0.0001", "--imp.decay", "--imp.rewind-step=0"]  # fmt: skip
LIKE = ["--finetune-learning-rate=0.1", "--weight-decay=0.0001"]


def _vector(params, mask):
    kept = jax.tree.map(lambda w, m: np.float64(w[m]) if m is not None else None, params, mask, is_leaf=_none)
    return np.concatenate(jax.tree.leaves(kept))


def _none(leaf):
    return leaf is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A dense network, an IMP run with two rounds, its ticket under two other orders, and a random ticket of it."""
    base, mask, half = tmp_path_factory.mktemp("runs"), mask_of(1), mask_of(2, 0.5)
    dense = make_run(base / "dense", ["--pruner=dense", "--data-seed=1", *LIKE], moved(1), mask_of())
    rounds = [(START, mask_of()), (moved(1), mask_of()), (moved(2), half)]
    imp = make_run(base / "imp", [*IMP, "--data-seed=1"], moved(3), mask, rounds=rounds)
    again = ["--pruner=ticket", f"--ticket.run={imp}", *LIKE]
    for seed in (2, 3):
        make_run(base / "orders" / f"data-seed-{seed}", [*again, f"--data-seed={seed}"], moved(3 + seed), mask)
    make_run(imp / "sanity" / "shuffle", [*IMP, "--data-seed=1"], moved(9), mask_of(3), check="shuffle")
    return base, dense, imp


def test_a_folder_of_runs_and_its_names(runs):
    base, dense, imp = runs
    found = networks_of([base / "orders", dense, imp], rounds=True)
    assert [network.name for network in found] == [
        "orders/data-seed-2", "orders/data-seed-3", "dense", "imp, round 1", "imp, round 2", "imp"
    ]  # fmt: skip
    assert [network.is_whole for network in found] == [False, False, True, True, False, False]
    assert [network.folder for network in networks_of([base])] == [dense, imp, *sorted((base / "orders").iterdir())]
    second = networks_of([imp / "rounds" / "02.safetensors"])[0]
    assert second.round == 2
    jax.tree.map(np.testing.assert_array_equal, second.initial, START)
    assert [network.round for network in whole_rounds(found[:3])] == []
    assert [(network.name, network.round) for network in whole_rounds(found[-1:])] == [("imp, round 1", 1)]


def test_distances_are_those_of_numpy(runs):
    _, dense, imp = runs
    networks = networks_of([dense, imp, imp / "sanity" / "shuffle"])
    rows = measures.distances(networks)
    assert [row["layer"] for row in rows[:4]] == ["all", *networks[0].layers]
    first, both = rows[0], rows[8]  # dense and imp; imp and its random ticket
    a, b = (_vector(params, mask_of(1)) for params in (moved(1), moved(3)))
    assert (first["over"], first["weights"]) == ("what both keep", 12550)
    np.testing.assert_allclose(first["l2"], np.linalg.norm(a - b), rtol=1e-9)
    angle = np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    np.testing.assert_allclose(first["angle"], angle, rtol=1e-6)
    np.testing.assert_allclose(sum(row["l2"] ** 2 for row in rows[1:4]), first["l2"] ** 2, rtol=1e-9)
    shared = sum(int((x & y).sum()) for x, y in zip(*map(jax.tree.leaves, (mask_of(1), mask_of(3))), strict=True))
    assert both["weights"] == shared
    overlap = measures.overlaps(networks)[8]
    np.testing.assert_allclose(overlap["shared"], shared / 12550)
    np.testing.assert_allclose(overlap["eq7"], 1 - 2 * (12550 - shared) / 50200)
    np.testing.assert_allclose(overlap["shared_by_chance"], 0.25, atol=1e-3)


def test_stability_of_what_fits_together(runs):
    base, dense, imp = runs
    networks = networks_of([dense, imp, base / "orders", imp / "sanity" / "shuffle"], rounds=True)
    rows = stability.samples(networks)
    orders = [(row["first"], row["second"], row["ticket"]) for row in rows if row["stability"] == "data order"]
    assert orders == [("orders/data-seed-2", "orders/data-seed-3", "imp, 25 % kept")]
    pruned = {(row["second"], row["ticket"]): row for row in rows if row["stability"] == "pruning"}
    assert list(pruned) == [("imp, round 2", "imp, 50 % kept"), ("imp", "imp, 25 % kept"),
                            ("imp/sanity/shuffle", "imp, shuffle, 25 % kept")]  # fmt: skip
    assert len(pruned) == len(rows) - 1  # the first round is the dense network again, and no further sample
    expected = np.linalg.norm(_vector(moved(1), mask_of(1)) - _vector(moved(3), mask_of(1)))
    np.testing.assert_allclose(pruned["imp", "imp, 25 % kept"]["l2"], expected, rtol=1e-9)
    means = {(row["stability"], row["ticket"]): row for row in stability.summary([*rows, rows[0] | {"l2": 0.0}])}
    mean = means["data order", "imp, 25 % kept"]
    assert (mean["pairs"], mean["l2_min"], mean["l2_max"], mean["l2"]) == (2, 0.0, rows[0]["l2"], rows[0]["l2"] / 2)


def test_n_orders_are_n_over_two_pairs(runs, tmp_path):
    for seed in range(4):
        make_run(tmp_path / str(seed), ["--pruner=random", f"--data-seed={seed}"], moved(seed), mask_of(1))
    make_run(tmp_path / "other", ["--pruner=random", "--data-seed=9", "--seed=7"], moved(5), mask_of(2))
    assert len(stability.samples(networks_of([tmp_path]))) == 6
    assert {row["rewound_to"] for row in stability.samples(networks_of([tmp_path]))} == {0}


def test_trainings_of_two_recipes_are_two_rows(tmp_path):
    """Their mean was told as that of one ticket."""
    again = ["--pruner=ticket", "--data-seed=1"]
    for i, rate in enumerate(("0.1", "0.001")):
        flags = ["--pruner=imp", f"--finetune-learning-rate={rate}"]
        for seed in (1, 2):
            of = make_run(tmp_path / f"imp-{rate}-{seed}", [*flags, f"--seed={seed}"], moved(1), mask_of(1))
            for order in (1, 2):
                again = ["--pruner=ticket", f"--ticket.run={of}", f"--seed={seed}", f"--data-seed={order}"]
                place, weights = tmp_path / f"{rate}-{seed}-{order}", moved(10 * i + 2 * seed + order)
                make_run(place, [*again, *flags[1:]], weights, mask_of(1))
    networks = networks_of([path for path in sorted(tmp_path.iterdir()) if path.name[0] == "0"])
    means = stability.summary(stability.samples(networks))
    assert [mean["pairs"] for mean in means] == [2, 2]  # samples of two seeds are one row
    assert [mean["ticket"] for mean in means] == [f"imp, 25 % kept, learning rate {rate}" for rate in (0.001, 0.1)]


WHY = {
    "other order": (["--data-seed=2", *LIKE], START, "--data-seed is 1 and 2"),
    "no data seed": (LIKE, START, "without --data-seed every training has an order of its own"),
    "other training": (["--data-seed=1", *LIKE, "--finetune-epochs=4"], START, "epochs 3 and 4"),
    "other start": (["--data-seed=1", *LIKE], moved(8), "they began with other weights"),
}


@pytest.mark.parametrize("name", WHY)
def test_why_a_subnetwork_is_not_of_that_network(name, runs, tmp_path):
    flags, initial, why = WHY[name]
    make_run(tmp_path / "part", ["--pruner=random", *flags], moved(3), mask_of(1), initial)
    with pytest.raises(UsageError, match=rf"stability: expected .* got 2 without such a pair; .*dense and .*{why}"):
        stability.samples(networks_of([runs[1], tmp_path / "part"]))


def test_the_step_that_a_ticket_is_rewound_to(tmp_path):
    imp = make_run(tmp_path / "imp", ["--pruner=imp", "--imp.rewind-step=12"], moved(1), mask_of(1))
    again = ["--pruner=ticket", f"--ticket.run={imp}"]
    make_run(tmp_path / "a", [*again, "--data-seed=1"], moved(2), mask_of(1))
    make_run(tmp_path / "b", [*again, "--data-seed=2"], moved(3), mask_of(1))
    (row,) = stability.samples(networks_of([tmp_path / "a", tmp_path / "b"]))
    assert (row["rewound_to"], row["ticket"]) == (12, "imp, 25 % kept")


def test_lines_end_at_the_networks_and_stay_in_one_mask(runs):
    base, _, imp = runs
    networks = networks_of([base / "orders", imp])
    pairs = lines.line_pairs(networks)
    assert [(a.name, b.name) for a, b in pairs] == [("orders/data-seed-2", "orders/data-seed-3")]  # one ticket's orders
    pairs = [*pairs, (networks[0], networks[0])]
    rows = lines.lines(pairs, points=3, examples=60, statistics=100)
    assert [row["alpha"] for row in rows] == [0, 0.5, 1] * 2
    assert all(0 <= row["accuracy"] <= 1 and row["loss"] > 0 for row in rows)
    same = lines.barriers(rows)[1]
    assert abs(same["error_barrier"]) + abs(same["loss_barrier"]) < 1e-6
    first = lines.barriers(rows)[0]
    errors = [1 - row["accuracy"] for row in rows[:3]]
    np.testing.assert_allclose(first["error_barrier"], max(errors) - (errors[0] + errors[2]) / 2, atol=1e-9)


def test_masks_that_differ(runs):
    _, dense, imp = runs
    networks = networks_of([dense, imp])
    with pytest.raises(
        UsageError, match=r"connectivity: expected networks of one mask, got dense and imp.*--intersect"
    ):
        lines.line_pairs(networks)
    ((a, b),) = lines.line_pairs(networks, intersect=True)
    rows = lines.lines([(a, b)], points=2, examples=60, statistics=100)
    assert {row["over"] for row in [*rows, *lines.barriers(rows)]} == {"what both keep"}
    mask, over = measures.common_mask(a, b)
    assert (masks.num_kept(mask), over) == (12550, "what both keep")


def test_one_ticket_under_orders_of_which_one_found_another_mask(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path / str(seed), ["--pruner=imp", f"--data-seed={seed}"], moved(seed), mask_of(seed))
    with pytest.raises(UsageError, match=r"stability: expected networks of one mask, .* share 2\d\.\d %"):
        stability.samples(networks_of([tmp_path]))
    assert len(stability.samples(networks_of([tmp_path]), intersect=True)) == 1


def test_an_untrained_ticket_has_no_stability(tmp_path):
    for seed in (1, 2):
        flags = ["--pruner=random", f"--data-seed={seed}", "--finetune-epochs=0"]
        make_run(tmp_path / str(seed), flags, moved(1), mask_of(1))
    for fn in (stability.samples, lines.line_pairs):
        with pytest.raises(UsageError, match=r"expected a ticket that was trained, got .* of --finetune-epochs=0"):
            fn(networks_of([tmp_path]))


def test_dead_weights_are_those_off_every_path(tmp_path):
    mask = mask_of(1, 0.02)
    mask["linear3"]["kernel"][:50] = False
    make_run(tmp_path / "sparse", ["--pruner=random"], moved(1), mask)
    whole, *layers = dead_weights(networks_of([tmp_path / "sparse"]))
    first, second, third = (mask[name]["kernel"] for name in ("linear1", "linear2", "linear3"))
    reached = first.any(0)
    read = third.any(1)
    alive = [first & (second & read[None]).any(1)[None], second & reached[:, None] & read[None],
             third & (second & reached[:, None]).any(0)[:, None]]  # fmt: skip
    assert [row["num_effective"] for row in layers] == [int(one.sum()) for one in alive]
    assert [row["num_kept"] for row in layers] == [int(one.sum()) for one in (first, second, third)]
    assert whole["effective_sparsity"] == 1 - sum(int(one.sum()) for one in alive) / 50200
    assert [row["cut"] for row in (whole, *layers)] == ["", "", "", ""]
    mask["linear3"]["kernel"][:] = False
    make_run(tmp_path / "cut", ["--pruner=random"], moved(1), mask)
    rows = dead_weights(networks_of([tmp_path / "cut"]))
    assert rows[0]["num_effective"] == 0
    assert "linear1/kernel" in rows[0]["cut"]
