"""Tickets in the structure of a user's own network, and what is told where they do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rare_gems import masks
from rare_gems.phase import Ticket
from rare_gems.storage import ticket_file
from rare_gems.storage.own_network import load_into
from tests.storage.test_ticket_file import rewrite


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": rng.random((3, 3, 2, 4), np.float32), "bias": rng.random(4, np.float32)},
        "head": [{"kernel": rng.random((4, 5), np.float32)}],
    }
    mask = {"conv": {"kernel": rng.random((3, 3, 2, 4)) < 0.5, "bias": None}, "head": [{"kernel": np.eye(4, 5) > 0}]}
    initial = jax.tree.map(lambda w: w + 1, params)
    state = {"conv": {"mean": np.arange(4, dtype=np.float32)}}
    path = tmp_path / "t.safetensors"
    ticket_file.save(path, Ticket(params, None, mask), metadata={}, initial=initial, model_state=state)
    return path, Ticket(params, None, mask), initial, state


def test_another_structure_of_equal_names(file):
    path, ticket, initial, state = file
    params = {
        "head": ({"kernel": jnp.zeros((4, 5))},),
        "conv": {"bias": jnp.zeros(4), "kernel": jnp.zeros((3, 3, 2, 4))},
    }
    found = load_into(path, params, {"conv": {"mean": jnp.zeros(4)}})
    assert jax.tree.structure(found.ticket.params) == jax.tree.structure(params)
    assert isinstance(found.ticket.params["head"][0]["kernel"], jax.Array)
    for tree, wanted in (
        (found.ticket.params, ticket.params),
        (found.initial, initial),
        (found.ticket.mask, ticket.mask),
    ):
        np.testing.assert_array_equal(tree["conv"]["kernel"], wanted["conv"]["kernel"])
        np.testing.assert_array_equal(tree["head"][0]["kernel"], wanted["head"][0]["kernel"])
    assert found.ticket.mask["conv"]["bias"] is None
    assert found.ticket.scores is None
    np.testing.assert_array_equal(found.model_state["conv"]["mean"], state["conv"]["mean"])
    assert masks.num_kept(found.ticket.mask) == found.metadata["num_kept"]
    assert load_into(path, jax.eval_shape(lambda: params)).model_state is None


def test_renamed_nnx(file):
    class Net(nnx.Module):
        def __init__(self):
            self.first = nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0))
            self.last = nnx.Linear(4, 5, use_bias=False, rngs=nnx.Rngs(0))

    path, ticket, *_ = file
    net, ours = Net(), {"first": "conv", "last": "head/0"}
    params = nnx.state(net, nnx.Param)
    found = load_into(path, params, rename=lambda name: "/".join(ours.get(part, part) for part in name.split("/")))
    nnx.update(net, found.ticket.params)
    np.testing.assert_array_equal(net.first.kernel[...], ticket.params["conv"]["kernel"])
    np.testing.assert_array_equal(net.last.kernel[...], ticket.params["head"][0]["kernel"])
    masked = masks.apply(found.ticket.params, found.ticket.mask)
    assert jax.tree.structure(masked) == jax.tree.structure(params)


def test_every_difference_is_told_with_the_nearest_name(file):
    path, *_ = file
    conv = {"kernel": jnp.zeros((3, 3, 2, 8)), "bias": jnp.zeros(4, jnp.bfloat16)}
    with pytest.raises(ValueError, match="its tensors") as caught:
        load_into(path, {"conv": conv, "classifier": {"kernel": jnp.zeros((4, 5))}, "odd": jnp.zeros(1)})
    assert str(caught.value) == (
        f"{path}: its tensors are not those of the network: 2 missing in the file: params/classifier/kernel (nearest: "
        "head/0/kernel), params/odd; 1 not in the network: params/head/0/kernel (nearest: classifier/kernel); 2 of "
        "another shape or dtype: params/conv/bias (expected bfloat16[4], got float32[4]), params/conv/kernel (expected "
        "float32[3, 3, 2, 8], got float32[3, 3, 2, 4]); rename= can translate names"
    )


def test_names_that_become_one(file):
    with pytest.raises(ValueError, match="two leaves of the network's params have the name 'conv'"):
        load_into(file[0], [jnp.zeros(1), jnp.zeros(1)], rename=lambda name: "conv")


def test_a_group_of_later_files_is_passed_over(file):
    path, ticket, *_ = file

    def add(tensors, header):
        tensors["extra/conv"] = np.ones(3, np.float32)
        header.update(groups=[*header["groups"], "extra"], note="later")

    rewrite(path, add)
    found = load_into(path, ticket.params)
    np.testing.assert_array_equal(found.ticket.params["conv"]["bias"], ticket.params["conv"]["bias"])
    assert isinstance(found.ticket.params["conv"]["bias"], np.ndarray)
    assert ticket_file.load(path).metadata["note"] == "later"


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_are_restored_as_they_were(tmp_path, impl):
    """Alone and in batches, in the state and in params, into a tree of other containers; raw keys stay numbers."""
    key = jax.random.key(7, impl=impl)
    state = {
        "rng": key,
        "more": [jax.random.split(key, 3), jax.random.split(key, (2, 2))],
        "raw": jnp.arange(2, dtype=jnp.uint32),
    }
    params, mask = {"w": jnp.ones(2), "key": jax.random.split(key, 2)}, {"w": jnp.array([True, False]), "key": None}
    path = tmp_path / "t.safetensors"
    ticket_file.save(path, Ticket(params, None, mask), metadata={}, initial=params, model_state=state)
    wanted = state | {"more": tuple(state["more"])}
    for like in (wanted, jax.eval_shape(lambda: wanted)):
        found = load_into(path, params, like)
        for tree, expected in ((found.model_state, wanted), (found.ticket.params, params), (found.initial, params)):
            assert jax.tree.structure(tree) == jax.tree.structure(expected)
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
                    a, b = jax.random.key_data(a), jax.random.key_data(b)
                np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"1 of another shape or dtype: state/rng \(expected key<\w+>\[5\], got key"):
        load_into(path, params, state | {"rng": jax.random.split(key, 5)})


def test_numbers_of_python_and_of_64_bits_stay_what_they_are(tmp_path):
    params = {"w": np.ones(2), "scale": np.float64(2)}
    path, mask = tmp_path / "t.safetensors", {"w": np.array([True, False]), "scale": None}
    ticket_file.save(path, Ticket(params, None, mask), metadata={})
    found = load_into(path, {"w": np.zeros(2), "scale": 0.5}).ticket.params
    assert found["scale"] == 2
    assert type(found["scale"]) is float
    assert found["w"].dtype == np.float64
    with pytest.raises(ValueError, match="float64"):
        load_into(path, {"w": jax.ShapeDtypeStruct((2,), np.float64), "scale": 0.5})


def test_names_that_nobody_asked_for_are_sorted(tmp_path):
    params = {f"layer{i}": np.ones(2, np.float32) for i in range(8)}
    ticket_file.save(tmp_path / "t", Ticket(params, None, {"layer0": np.ones(2, bool)}), metadata={})
    with pytest.raises(ValueError, match="not in the network") as caught:
        load_into(tmp_path / "t", {})
    first = ", ".join(f"params/layer{i}" for i in range(6))
    assert str(caught.value).endswith(f": 8 not in the network: {first} and 2 more")
    groups, _ = ticket_file.read(tmp_path / "t")
    assert list(groups["params"]) == list(params)


@pytest.mark.parametrize(
    ("params", "rename"),
    [
        ({"net": {"first": "conv", "last": "head"}}, {"net": "", "net/first": "conv", "net/last": "head/0"}),
        ({"conv": "conv", "last": "head"}, {"last/kernel": "head/0/kernel"}),
        ({"conv": "conv", "headline": "head", "head": {}}, {"headline": "head/0"}),
    ],
    ids=["first parts", "a whole name", "a name that begins like another"],
)
def test_names_in_a_dict(file, params, rename):
    path, ticket, *_ = file
    parts = {"conv": ticket.params["conv"], "head": ticket.params["head"][0]}
    params = jax.tree.map(lambda part: jax.tree.map(np.zeros_like, parts[part]), params)
    assert masks.num_kept(load_into(path, params, rename=rename).ticket.mask) == masks.num_kept(ticket.mask)


def test_a_dict_of_the_whole_tree(file):
    path, ticket, *_ = file
    params = {"kernel": np.zeros((3, 3, 2, 4), np.float32), "bias": np.zeros(4, np.float32)}
    ticket_file.save(path, Ticket(ticket.params, None, {"conv": ticket.mask["conv"]}), metadata={})
    found = load_into(
        path, {**params, "last": np.zeros((4, 5), np.float32)}, rename={"": "conv", "last": "head/0/kernel"}
    )
    np.testing.assert_array_equal(found.ticket.params["last"], ticket.params["head"][0]["kernel"])


@pytest.mark.parametrize(
    ("rename", "told"),
    [
        (
            {"convs": "conv"},
            r"rename: expected names of the network, or first parts of them, got 'convs' \(nearest: conv",
        ),
        ({"head": "head", 0: "conv"}, "got 0"),
        ({"conv": None}, "rename: expected a name for 'conv/bias', got None"),
        (lambda name: None, "rename: expected a name for 'conv/bias', got None"),
        (["conv"], "rename: expected a function or a dict of names, got list"),
    ],
)
def test_what_cannot_rename_is_told(file, rename, told):
    path, ticket, *_ = file
    with pytest.raises(ValueError, match=rf"^{path}: .*{told}"):
        load_into(path, ticket.params, rename=rename)


def test_the_folder_of_a_run(file):
    path, ticket, *_ = file
    with pytest.raises(FileNotFoundError, match=r"ticket\.safetensors"):
        load_into(path.parent, ticket.params)
    path.rename(path.parent / ticket_file.FILE_NAME)
    assert load_into(path.parent, ticket.params).metadata == ticket_file.load(path.parent).metadata
