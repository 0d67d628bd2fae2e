"""A ticket as the bits of its mask and what draws its weights: there and back, and what is refused."""

import base64
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.storage import seed_file

PARAMS = {"dense": {"kernel": np.linspace(-1, 1, 39, dtype=np.float32).reshape(13, 3), "bias": np.zeros(3, np.float32)},
          "conv": [np.full((1, 1, 2, 5), 0.5, np.float32)]}  # fmt: skip
MASK = {"dense": {"kernel": np.arange(39).reshape(13, 3) % 3 == 1, "bias": None},
        "conv": [np.arange(10).reshape(1, 1, 2, 5) > 8]}  # fmt: skip
STATE = {"mean": np.arange(3, dtype=np.float32), "count": np.array(7, np.int32), "none": None}


@pytest.fixture
def file(tmp_path):
    seed_file.save(tmp_path / "t.json", MASK, params=PARAMS, model_state=STATE, metadata={"seed": 3, "weights": "mine"})
    return tmp_path / "t.json"


def changed(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return file


def load(file, params=PARAMS, mask=MASK, state=STATE):
    return seed_file.load(file, mask, params=params, like_state=state)


def test_there_and_back(file):
    everything = jax.tree.map(np.ones_like, MASK)
    found = load(file, mask=everything)
    jax.tree.map(np.testing.assert_array_equal, found[:2], (MASK, STATE))
    assert jax.tree.structure(found[:2]) == jax.tree.structure((MASK, STATE))
    assert found.metadata["num_kept"] == 14
    assert found.metadata["sparsity"] == 1 - 14 / 49
    assert found.metadata["seed"] == 3
    assert found.metadata["weights"]["conv/0"] == [0.5] * 4  # the caller's entry of that name is not written


def test_the_bits_are_those_of_the_page(file):
    entries = json.loads(file.read_text())
    packed = zlib.decompress(base64.b64decode(entries["mask"]))
    assert packed == np.packbits(MASK["conv"][0]).tobytes() + np.packbits(MASK["dense"]["kernel"]).tobytes()
    assert [layer["name"] for layer in entries["layers"]] == ["conv/0", "dense/kernel"]


def test_weights_may_differ_by_rounding_and_no_more(file):
    load(file, jax.tree.map(lambda w: w * np.float32(1 + 1e-6), PARAMS))
    other = PARAMS | {"conv": [np.full((1, 1, 2, 5), 0.501, np.float32)]}
    with pytest.raises(ValueError, match=r"t.json: expected the weights that its mask was chosen from.*conv/0"):
        load(file, other)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"seed_file_version": 2}, "expected seed_file_version 1, got 2: update"),
        ({"seed_file_version": None}, "expected seed_file_version 1, got None"),
        ({"mask": "AAAA"}, "mask: damaged"),
        ({"mask": 5}, "damaged"),
        ({"mask": base64.b64encode(zlib.compress(b"123")).decode()}, "expected bits for 49 weights, got 3 bytes"),
        ({"mask": base64.b64encode(zlib.compress(bytes(7))).decode()}, "mask/conv/0: expected 1 weights kept, got 0"),
        ({"state": base64.b64encode(zlib.compress(b"123")).decode()}, "state: damaged"),
        ({"layers": [{"name": "conv/0"}]}, "damaged"),
        ({"weights": []}, "damaged"),
        ({"num_kept": 99}, "num_kept: expected 99 as in its entries, got 14"),
        ({"seed_file_version": True}, "expected seed_file_version 1, got True"),
    ],
)
def test_damage(file, entries, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(changed(file, **entries))
    assert str(caught.value).startswith(f"{file}: ")


def test_other_files_and_networks(file, tmp_path):
    with pytest.raises(ValueError, match=r"does not match `like`: missing: mask/other"):
        load(file, mask={"other": np.ones(3, bool)})
    with pytest.raises(ValueError, match=r"state/mean \(expected float32\[4\], got float32\[3\]\)"):
        load(file, state=STATE | {"mean": np.zeros(4, np.float32)})
    for text in ("", "[]", "{}", "5", "[" * 9999):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="expected a ticket by its seed"):
            load(tmp_path / "other.json")
    entries = json.loads(file.read_text())
    del entries["state"]
    (tmp_path / "other.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="got none of the name state"):
        load(tmp_path / "other.json")


def test_infinite_constants_are_weights_too(tmp_path):
    params = PARAMS | {"causal": np.array([0.0, -np.inf, np.nan], np.float32)}
    seed_file.save(tmp_path / "t.json", MASK | {"causal": None}, params=params, metadata={})
    load(tmp_path / "t.json", params, MASK | {"causal": None}, None)
    with pytest.raises(ValueError, match="got others in causal"):
        load(tmp_path / "t.json", params | {"causal": np.zeros(3, np.float32)}, MASK | {"causal": None}, None)


def test_what_cannot_be_saved(tmp_path):
    def save(mask=MASK, params=PARAMS, state=None, metadata=None):
        seed_file.save(tmp_path / "t.json", mask, params=params, model_state=state, metadata=metadata or {})

    with pytest.raises(ValueError, match="state/rng: expected numbers, got PRNG keys"):
        save(state={"rng": jax.random.key(0)})
    with pytest.raises(ValueError, match="mask/conv/0: expected dtype bool, got float32"):
        save(mask=MASK | {"conv": [jnp.ones((1, 1, 2, 5))]})
    with pytest.raises(ValueError, match=r"mask/conv/0: expected shape \(1, 1, 2, 5\), that of the params, got \(3,\)"):
        save(mask=MASK | {"conv": [np.ones(3, bool)]})
    with pytest.raises(ValueError, match="state: two leaves have the name 'a/b'"):
        save(state={"a/b": np.zeros(2), "a": {"b": np.ones(3)}})
    with pytest.raises(ValueError, match="state/x: expected"):
        save(state={"x": "relu"})
    with pytest.raises(ValueError, match="mask: two leaves have the name 'a/b'"):
        save({"a/b": np.ones(3, bool), "a": {"b": np.ones(3, bool)}}, {"a/b": np.ones(3), "a": {"b": np.ones(3)}})
    with pytest.raises(ValueError, match="metadata: expected values that JSON can hold"):
        save(metadata={"config": {1, 2}})
    assert not list(tmp_path.iterdir())
