"""`ticket.safetensors`: round trips, equal bytes, all-or-nothing writes, one clear line for every damage."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rare_gems.phase import Ticket
from rare_gems.storage import ticket_file

METADATA = {"method": "gem_miner", "seed": 3, "sparsity_target": 0.5}


class Dense(NamedTuple):
    kernel: Any
    bias: Any


def make_ticket(dtype=jnp.float32) -> Ticket:
    """Mask sizes 15, 8 and 1: not divisible by eight, divisible, and less than a byte."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 5), "head": (2, 2, 2), "last": (1, 1)}
    params, mask, scores = {}, {}, {}
    for name, shape in shapes.items():
        params[name] = Dense(*(jnp.asarray(rng.normal(size=size), dtype) for size in (shape, 2)))
        mask[name] = Dense(jnp.asarray(rng.random(shape) < 0.5), None)
        scores[name] = Dense(jnp.asarray(rng.random(shape), jnp.float32), None)
    return Ticket({"net": [params, None]}, {"net": [scores, None]}, {"net": [mask, None]})


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def save(path, ticket=None, **options):
    ticket_file.save(path, make_ticket() if ticket is None else ticket, **{"metadata": METADATA} | options)
    return path


def rewrite(path, edit):
    """Writes the file again after `edit(tensors, header)`, with the library of safetensors only."""
    with safetensors.safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["rare_gems"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    edit(tensors, header)
    path.write_bytes(safetensors.numpy.save(tensors, {"rare_gems": json.dumps(header)}))


def message(path, **options) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is what the callers check
        ticket_file.load(path, **options)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_like(tmp_path, dtype, abstract):
    ticket = make_ticket(dtype)
    initial = jax.tree.map(lambda w: w + w, ticket.params)
    state = {"bn": {"mean": jnp.arange(3.0), "count": jnp.int32(7)}}
    path = save(tmp_path / "t.safetensors", ticket, initial=initial, model_state=state)
    like = jax.eval_shape(lambda: ticket) if abstract else ticket
    got = ticket_file.load(path, like, like_state=state)
    assert_same(got.ticket, ticket)
    assert_same(got.initial, initial)
    assert_same(got.model_state, state)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got[:3]))


def test_round_trip_without_like(tmp_path):
    ticket = make_ticket()
    path = save(tmp_path / "t.safetensors", ticket, model_state={"bn": [jnp.arange(2.0)]})
    got = ticket_file.load(path)
    net = got.ticket.params["net"][0]  # the list's index became an int key
    assert set(net) == {"conv", "head", "last"}
    np.testing.assert_array_equal(net["conv"]["kernel"], np.asarray(ticket.params["net"][0]["conv"].kernel))
    assert got.ticket.mask["net"][0]["conv"]["bias"] is None
    assert got.ticket.scores["net"][0]["head"]["bias"] is None
    for name in net:
        mask = got.ticket.mask["net"][0][name]["kernel"]
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, np.asarray(ticket.mask["net"][0][name].kernel))
    np.testing.assert_array_equal(got.model_state["bn"][0], [0.0, 1.0])
    assert got.initial is None
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(got.ticket))


def test_loaded_file_saves_to_the_same_bytes(tmp_path):
    path = save(tmp_path / "a.safetensors", initial=make_ticket().params, model_state={"bn": jnp.ones(2)})
    ticket, initial, state, metadata = ticket_file.load(path)
    again = tmp_path / "b.safetensors"
    ticket_file.save(again, ticket, metadata=metadata, initial=initial, model_state=state)
    assert again.read_bytes() == path.read_bytes()


def test_format_by_hand(tmp_path):
    """Names, bits and header as written down, read with the library of safetensors only."""
    mask = jnp.array([[True, False, False], [False, False, True], [True, False, True]])
    ticket = Ticket([{"w": jnp.arange(9.0).reshape(3, 3)}], [{"w": jnp.ones((3, 3))}], [{"w": mask}])
    path = save(tmp_path / "t.safetensors", ticket, metadata={"method": "random", "seed": 1, "note": "x"})
    with safetensors.safe_open(path, "numpy") as file:
        assert sorted(file.keys()) == ["mask/0/w", "params/0/w", "scores/0/w"]
        assert list(file.metadata()) == ["rare_gems"]
        header = json.loads(file.metadata()["rare_gems"])
        # 100001101 and seven zero bits
        assert file.get_tensor("mask/0/w").tolist() == [0b10000110, 0b10000000]
        np.testing.assert_array_equal(file.get_tensor("params/0/w").reshape(-1), np.arange(9))
    assert header == {
        "format_version": 1, "method": "random", "seed": 1, "note": "x", "sparsity": 1 - 4 / 9, "num_kept": 4,
        "num_prunable": 9, "layers": [{"name": "0/w", "shape": [3, 3], "num_prunable": 9, "num_kept": 4}],
        "groups": ["mask", "params", "scores"],
    }  # fmt: skip
    assert ticket_file.load(path).metadata == header


def test_what_save_computes_wins_over_the_callers_metadata(tmp_path):
    path = save(tmp_path / "t.safetensors", metadata={"num_kept": -1, "sparsity": 5.0, "layers": []})
    metadata, mask = ticket_file.load(path).metadata, make_ticket().mask
    kept = sum(int(np.asarray(leaf).sum()) for leaf in jax.tree.leaves(mask))
    assert (metadata["num_kept"], metadata["num_prunable"], metadata["method"]) == (kept, 24, None)
    assert metadata["sparsity"] == 1 - kept / 24
    names = [f"net/0/{name}/kernel" for name in ("conv", "head", "last")]
    assert [layer["name"] for layer in metadata["layers"]] == names


def test_single_array(tmp_path):
    ticket = Ticket(jnp.arange(3.0), jnp.ones(3), jnp.array([True, False, True]))
    path = save(tmp_path / "t.safetensors", ticket)
    assert sorted(safetensors.numpy.load_file(path)) == ["mask", "params", "scores"]
    assert_same(ticket_file.load(path, ticket).ticket, ticket)
    np.testing.assert_array_equal(ticket_file.load(path).ticket.mask, [True, False, True])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 17, 1001])
def test_bits_of_every_size(tmp_path, size):
    mask = np.random.default_rng(size).random(size) < 0.3
    path = save(tmp_path / "t.safetensors", Ticket({"w": np.zeros(size, np.float32)}, None, {"w": mask}))
    assert safetensors.numpy.load_file(path)["mask/w"].size == -(-size // 8)
    np.testing.assert_array_equal(ticket_file.load(path).ticket.mask["w"], mask)


def test_nnx_paths(tmp_path):
    nnx = pytest.importorskip("flax.nnx")
    linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    params = nnx.state(linear, nnx.Param)
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool) if w.ndim == 2 else None, params)
    ticket = Ticket(params, None, mask)
    path = save(tmp_path / "t.safetensors", ticket)
    assert "params/kernel/value" in safetensors.numpy.load_file(path)
    assert_same(ticket_file.load(path, ticket).ticket, ticket)


def test_slashes_in_keys_need_like(tmp_path):
    params = {"mlp/~/linear": {"w": jnp.ones((2, 2))}, "mlp": {"~": jnp.ones(1)}}
    mask = {"mlp/~/linear": {"w": jnp.ones((2, 2), bool)}, "mlp": {"~": None}}
    path = save(tmp_path / "t.safetensors", Ticket(params, None, mask))
    assert_same(ticket_file.load(path, Ticket(params, None, mask)).ticket.params, params)
    assert "its name overlaps with another leaf's: load with `like`" in message(path)


def test_mixed_keys_stay_strings(tmp_path):
    one = jnp.ones(1)
    params = {"0": one, "a": one, "b": {"00": one}, "c": {"10": one, "9": None}}
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)
    got = ticket_file.load(save(tmp_path / "t.safetensors", Ticket(params, None, mask))).ticket.params
    assert sorted(got) == ["0", "a", "b", "c"]
    assert (list(got["b"]), list(got["c"])) == (["00"], [10])


def test_scores_are_optional(tmp_path):
    ticket = make_ticket()
    path = save(tmp_path / "t.safetensors", ticket, with_scores=False)
    assert not any(name.startswith("scores") for name in safetensors.numpy.load_file(path))
    assert ticket_file.load(path).ticket.scores is None
    assert ticket_file.load(path, ticket._replace(scores=None)).ticket.scores is None
    assert "saved without scores" in message(path, like=ticket)
    full = save(tmp_path / "full.safetensors", ticket)
    assert ticket_file.load(full, ticket._replace(scores=None)).ticket.scores is None


SCRIPT = """
import sys, jax.numpy as jnp, numpy as np
from rare_gems.storage import ticket_file
from rare_gems.phase import Ticket
names = {f"layer{i}" for i in range(9)}                       # a set: its order depends on the hash seed
params = {n: jnp.full((3, 3), float(n[5:])) for n in names}
mask = {n: jnp.asarray(np.eye(3) > 0) for n in names}
metadata = {n: 1 for n in names} | {"method": "x", "seed": 0}
ticket_file.save(sys.argv[1], Ticket(params, params, mask), metadata=metadata, model_state=params)
"""


def test_equal_tickets_are_equal_bytes_in_two_processes(tmp_path):
    contents = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.safetensors"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", SCRIPT, str(path)], env=environment, check=True, timeout=120)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_other_scores_are_other_bytes(tmp_path):
    ticket = make_ticket()
    other = ticket._replace(scores=jax.tree.map(lambda p: p / 2, ticket.scores))
    assert save(tmp_path / "a", ticket).read_bytes() == save(tmp_path / "b", ticket).read_bytes()
    assert save(tmp_path / "a", ticket).read_bytes() != save(tmp_path / "b", other).read_bytes()


def test_truncated_anywhere(tmp_path):
    data = save(tmp_path / "t.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in [*range(24), *range(24, len(data), 29), len(data) - 1]:
        cut.write_bytes(data[:length])
        assert "cut off" in message(cut), length


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip file", b"\x00" * 64, "é\n".encode("utf-16") * 40])
def test_not_safetensors(tmp_path, data):
    path = tmp_path / "t.safetensors"
    path.write_bytes(data)
    assert "not a safetensors file" in message(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_not_a_ticket(tmp_path, metadata):
    path = tmp_path / "t.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": np.ones(3, np.float32)}, metadata))
    assert "not a ticket" in message(path)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"format_version":1}', '{"format_version":1,"groups":[]}'])
def test_damaged_header(tmp_path, text):
    path = tmp_path / "t.safetensors"
    path.write_bytes(safetensors.numpy.save({"params/w": np.ones(3, np.float32)}, {"rare_gems": text}))
    assert "damaged" in message(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        ticket_file.load(tmp_path / "absent.safetensors")


def test_newer_format(tmp_path):
    path = save(tmp_path / "t.safetensors")
    rewrite(path, lambda tensors, header: header.update(format_version=2, groups="of another kind"))
    assert "format version 2 is newer than 1" in message(path)


def _flip(tensors, header):
    tensors["mask/net/0/conv/kernel"][0] ^= 0b1000


def _stray_bit(tensors, header):  # of 15 weights the 16th bit, made up for in the header
    tensors["mask/net/0/conv/kernel"][1] |= 1
    header["layers"][0]["num_kept"] += 1


def _short(tensors, header):
    tensors["mask/net/0/conv/kernel"] = tensors["mask/net/0/conv/kernel"][:1]


def _reshape(tensors, header):
    tensors["params/net/0/conv/kernel"] = tensors["params/net/0/conv/kernel"].T.copy()


def _drop(tensors, header):
    del tensors["mask/net/0/conv/kernel"]


def _total(tensors, header):
    header["num_kept"] += 1


DAMAGES = {
    _flip: "mask/net/0/conv/kernel: expected weights kept", _stray_bit: "expected unused bits 0, got 1",
    _short: "expected bytes (2,), got (1,)", _reshape: "expected shape (3, 5), got (5, 3)",
    _drop: "masks: expected", _total: "num_kept: expected",
}  # fmt: skip


@pytest.mark.parametrize(("damage", "expected"), DAMAGES.items())
def test_masks_are_checked_against_the_header(tmp_path, damage, expected):
    path = save(tmp_path / "t.safetensors")
    rewrite(path, damage)
    assert expected in message(path)
    assert expected in message(path, like=make_ticket())


def test_like_names_every_difference(tmp_path):
    mask = {"a": jnp.ones(2, bool), "b": None}
    path = save(tmp_path / "t.safetensors", Ticket({"a": jnp.ones(2), "b": jnp.ones(3)}, None, mask))
    like = Ticket({"b": jnp.ones(4), "c": jnp.ones(1)}, None, {"b": None, "c": jnp.ones(1, bool)})
    assert message(path, like=like).endswith(
        "does not match `like`: missing: params/c, mask/c; unexpected: params/a, mask/a; "
        "not of the shape or dtype: params/b (expected float32[4], got float32[3])"
    )
    like = Ticket({"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(3)}, None, mask)
    assert "params/a (expected bfloat16[2], got float32[2])" in message(path, like=like)
    like = like._replace(params={"a": jnp.ones(2), "b": jnp.ones(3)})
    assert "missing: state/bn" in message(path, like=like, like_state={"bn": jnp.ones(1)})


W, M = {"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2), bool)}
BAD = {
    "mask/w: expected dtype bool, got uint8": {"ticket": Ticket(W, None, {"w": jnp.ones((2, 2), jnp.uint8)})},
    "mask/w: expected shape (2, 2), got (4,)": {"ticket": Ticket(W, None, {"w": jnp.ones(4, bool)})},
    "mask/v: expected shape nothing, got (2, 2)": {"ticket": Ticket(W, None, {"v": M["w"]})},
    "mask: expected a tree of bool arrays, got None": {"ticket": Ticket(W, None, None)},
    "scores/w: expected shape (2, 2), got nothing": {"ticket": Ticket(W, {"w": None}, M)},
    "initial/w: expected shape (2, 2), got (2,)": {"ticket": Ticket(W, None, M), "initial": {"w": W["w"][0]}},
    "params: two leaves have the name 'a/b'": {"ticket": Ticket({"a": {"b": 1.0}, "a/b": 1.0}, None, {})},
    "state/o: expected an array of numbers or bool, got object": {
        "ticket": Ticket(W, None, M), "model_state": {"o": np.array([None])}},
    "state/s: expected an array of numbers or bool, got <U1": {
        "ticket": Ticket(W, None, M), "model_state": {"s": np.array(["a"])}},
    "state/f: expected an array of numbers or bool, got float8_e4m3fn": {
        "ticket": Ticket(W, None, M), "model_state": {"f": jnp.zeros(2, jnp.float8_e4m3fn)}},
    "state/c: expected an array of numbers or bool, got complex64": {
        "ticket": Ticket(W, None, M), "model_state": {"c": jnp.zeros(2, jnp.complex64)}},
    "state/n: expected an array of numbers or bool, got int": {
        "ticket": Ticket(W, None, M), "model_state": {"n": 2**80}},
    "state: expected names that UTF-8 can hold, got '\\ud800'": {
        "ticket": Ticket(W, None, M), "model_state": {"\ud800": np.ones(1)}},
    "state/f: expected an array of numbers or bool, got str": {
        "ticket": Ticket(W, None, M), "model_state": {"f": "relu"}},
    "metadata: expected values that JSON can hold": {"ticket": Ticket(W, None, M), "metadata": {"p": Path()}},
    "metadata: expected values that JSON can hold: Out of range": {
        "ticket": Ticket(W, None, M), "metadata": {"loss": float("nan")}},
}  # fmt: skip


@pytest.mark.parametrize(("expected", "options"), BAD.items())
def test_bad_arguments(tmp_path, expected, options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        save(tmp_path / "t.safetensors", **options)
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    if not {"metadata", "initial"} & set(options):  # before there is a value, too
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            ticket_file.check(options["ticket"], options.get("model_state"))
        assert expected in str(caught.value)


def test_check_takes_abstract_values():
    ticket = make_ticket()
    state = {"rng": jax.random.key(0), "n": jnp.int32(0)}
    ticket_file.check(*jax.eval_shape(lambda: (ticket, state)))
    wrong = jax.eval_shape(lambda: ticket._replace(mask=jax.tree.map(lambda m: m[:1], ticket.mask)))
    with pytest.raises(ValueError, match=r"mask/net/0/conv/kernel: expected shape \(3, 5\), got \(1, 5\)"):
        ticket_file.check(wrong)


def _keys(impl, *shape):
    key = jax.random.key(7, impl=impl)
    return jax.random.split(key, shape) if shape else key


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_are_restored_as_they_were(tmp_path, impl):
    """In the state, alone and in batches, and in params that are not prunable."""
    state = {"rng": _keys(impl), "more": [_keys(impl, 3), _keys(impl, 2, 2)], "none": _keys(impl, 3)[:0]}
    params, mask = W | {"key": _keys(impl, 2)}, M | {"key": None}
    path = save(tmp_path / "t.safetensors", Ticket(params, None, mask), initial=params, model_state=state)
    with safetensors.safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["rare_gems"])["prng_keys"]["state/more/1"] == impl
        np.testing.assert_array_equal(file.get_tensor("state/rng"), jax.random.key_data(state["rng"]))
    for like in (Ticket(params, None, mask), jax.eval_shape(lambda: Ticket(params, None, mask)), None):
        like_state = state if like else None
        got = ticket_file.load(path, like, like_state=like_state)
        for tree, expected in ((got.ticket.params, params), (got.initial, params), (got.model_state, state)):
            expected = (
                expected if like or "more" not in expected else expected | {"more": dict(enumerate(state["more"]))}
            )
            assert jax.tree.structure(tree) == jax.tree.structure(expected)
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
                    a, b = jax.random.key_data(a), jax.random.key_data(b)
                np.testing.assert_array_equal(a, b)
    again = tmp_path / "again.safetensors"  # what was read without `like` can be saved
    ticket_file.save(again, got.ticket, metadata=got.metadata, initial=got.initial, model_state=got.model_state)
    assert again.read_bytes() == path.read_bytes()


def test_files_without_keys_say_nothing_of_them(tmp_path):
    """As before there were any: equal tickets are equal files, whatever version wrote them."""
    path = save(tmp_path / "t.safetensors", metadata=METADATA | {"prng_keys": {"state/rng": "rbg"}})
    assert path.read_bytes() == save(tmp_path / "u.safetensors").read_bytes()
    assert "prng_keys" not in ticket_file.load(path).metadata


def test_keys_that_do_not_fit(tmp_path):
    state, like = {"rng": jax.random.key(0)}, Ticket(W, None, M)
    path = save(tmp_path / "t.safetensors", like, model_state=state)
    other = {"rng": jax.random.key(0, impl="rbg")}
    assert "state/rng (expected key<rbg>[], got key<fry>[])" in message(path, like=like, like_state=other)
    raw = {"rng": jax.random.key_data(state["rng"])}
    assert "state/rng (expected uint32[2], got key<fry>[])" in message(path, like=like, like_state=raw)
    rewrite(path, lambda tensors, header: header["prng_keys"].update({"state/rng": "rbg"}))
    assert "state/rng: expected the data of rbg keys, uint32[..., 4], got uint32[2]" in message(path)
    rewrite(path, lambda tensors, header: header["prng_keys"].update({"state/rng": "dice"}))
    assert "state/rng: JAX knows no PRNG keys of the implementation 'dice'" in message(path)
    rewrite(path, lambda tensors, header: header["prng_keys"].update({"state/rng": "threefry2x32", "state/x": "rbg"}))
    assert "damaged" in message(path)


def test_64_bits_are_kept_or_refused(tmp_path):
    params = {"w": np.array([[5e-300, 1.0], [1 + 1e-12, 0.1]])}
    state = {"n": np.int64(2**40), "m": np.array([5_000_000_000]), "u": np.uint64(2**63), "p": 2**40, "f": 0.1}
    ticket = Ticket(params, {"w": np.ones((2, 2))}, {"w": np.ones((2, 2), bool)})
    path = save(tmp_path / "t.safetensors", ticket, model_state=state)
    for like in (ticket, None):  # NumPy stays NumPy
        got = ticket_file.load(path, like, like_state=state)
        assert {name: leaf.item() if name in "nu" else leaf for name, leaf in got.model_state.items()} == {
            "n": 2**40, "m": 5_000_000_000, "u": 2**63, "p": 2**40, "f": 0.1}  # fmt: skip
        assert [got.model_state[name].dtype for name in "nmu"] == [np.int64, np.int64, np.uint64]
        assert isinstance(got.model_state["p"], int)
        np.testing.assert_array_equal(got.ticket.params["w"], params["w"], strict=True)
    abstract = {"n": jax.ShapeDtypeStruct((), np.int64)} | {name: state[name] for name in "mupf"}
    text = message(path, like=ticket, like_state=abstract)
    assert "state/n: expected int32 at most, got int64, which JAX would cut silently" in text
    assert "turn on jax_enable_x64" in text
    with jax.enable_x64(True):
        got = ticket_file.load(path, jax.eval_shape(lambda: ticket), like_state=abstract)
        assert got.model_state["n"] == 2**40
        assert got.ticket.params["w"].dtype == jnp.float64


def test_the_other_order_of_bytes_is_loaded_like_itself(tmp_path):
    params = {"w": np.array([[1.5, 2.0]], ">f4"), "n": np.array([2**40], ">i8")}
    ticket = Ticket(params, None, {"w": np.ones((1, 2), bool), "n": None})
    path = save(tmp_path / "t.safetensors", ticket, model_state={"m": np.array([3], ">f4")})
    got = ticket_file.load(path, ticket, like_state={"m": np.array([3], ">f4")})
    assert (got.ticket.params["w"].tolist(), got.ticket.params["n"].tolist()) == ([[1.5, 2.0]], [2**40])
    assert got.model_state["m"].tolist() == [3]
    assert "expected float64[1, 2], got float32[1, 2]" in message(
        path, like=ticket._replace(params=params | {"w": np.zeros((1, 2), ">f8")})
    )


@pytest.mark.parametrize(("module", "function"), [("os", "fsync"), ("pathlib.Path", "replace")])
@pytest.mark.parametrize("old", [None, b"the ticket of before"])
def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, module, function, old):
    path = tmp_path / "t.safetensors"
    if old is not None:
        path.write_bytes(old)

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"{module}.{function}", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert {entry: entry.read_bytes() for entry in tmp_path.iterdir()} == ({} if old is None else {path: old})


def test_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "t.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_places(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (folder, tmp_path / "absent" / "t.safetensors"):
        with pytest.raises(OSError, match=path.name) as caught:
            save(path)
        assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "header", ['{"__metadata__": 5}', '{"__metadata__": ["rare_gems"]}', "[" * 100_000, "7", "null"]
)
def test_strange_headers_are_no_tickets(header, tmp_path):
    file = tmp_path / "strange.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    assert not ticket_file.is_ticket(file)
