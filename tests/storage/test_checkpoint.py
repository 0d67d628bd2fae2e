"""rare_gems.storage.checkpoint: bit for bit, the last two kept, damage found and stepped over."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rare_gems.phase import Ticket
from rare_gems.storage import checkpoint
from rare_gems.storage.checksum import checksum
from rare_gems.training import trainer

# Orbax leaves the coroutines of a failed read behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_carry(seed=0):
    """Every kind of leaf that a run may hold."""
    rng = np.random.default_rng(seed)
    weird = jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42, -1.5], jnp.float32)
    params = {
        "w": jnp.float32(rng.normal(size=(40, 50))),
        "half": jnp.bfloat16(rng.normal(size=(3, 4))),
        "odd": weird,
    }
    mask = {"w": jnp.asarray(rng.random((40, 50)) < 0.1), "half": None, "odd": None}
    scores = {"w": jnp.float16(rng.random((40, 50))), "half": None, "odd": None}
    keys = jax.random.split(jax.random.key(seed), 3)
    opt_state = (None, {"count": jnp.int32(7), "trace": (params["w"] * 2, ())}, jnp.uint8([1, 255]))
    totals = trainer.Totals(jnp.float32(0.5), jnp.float32(seed), jnp.int32(3), jnp.int32(-1))
    empty = jnp.zeros((0, 4), jnp.float32)
    return trainer.Carry(
        step=jnp.int32(seed), key=keys[0], ticket=Ticket(params, scores, mask),
        model_state={"more": keys[1:], "none": empty}, first_state=None, opt_state=opt_state, during=(), rounds=(),
        after=None, totals=totals,
    )  # fmt: skip


def bits(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def check_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert bits(x) == bits(y)


def template(notes):
    return jax.eval_shape(make_carry)


def save_all(folder, positions):
    manager = checkpoint.open_folder(folder)
    for position in positions:
        checkpoint.save(manager, position, make_carry(position), {"at": position})
    checkpoint.close(manager)


@contextlib.contextmanager
def opened(folder):
    manager = checkpoint.open_folder(folder)
    try:
        yield manager
    finally:
        checkpoint.close(manager)


def files_of(folder, position):
    """The files of one checkpoint, the largest first."""
    files = [file for file in (folder / str(position)).rglob("*") if file.is_file()]
    return sorted(files, key=lambda file: (-file.stat().st_size, str(file)))


def flip_byte(folder, position):
    largest = files_of(folder, position)[0]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x10
    largest.write_bytes(content)


def truncate(folder, position):
    largest = files_of(folder, position)[0]
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def empty_all(folder, position):
    for file in files_of(folder, position):
        file.write_bytes(b"")


def delete_largest(folder, position):
    files_of(folder, position)[0].unlink()


def delete_arrays(folder, position):
    shutil.rmtree(folder / str(position) / "arrays")


def delete_meta(folder, position):
    shutil.rmtree(folder / str(position) / "meta")


def test_round_trip(tmp_path):
    carry = make_carry(3)
    notes = {"name": "gem_miner", "index": 1, "history": [0.5, None, "a"], "flag": True}
    manager = checkpoint.open_folder(tmp_path / "a" / "b")
    checkpoint.save(manager, 12, carry, notes)
    checkpoint.close(manager)
    seen = []
    with opened(tmp_path / "a" / "b") as manager:
        restored = checkpoint.restore_latest(manager, lambda notes: seen.append(notes) or template(notes))
    assert restored.position == 12
    assert restored.notes == notes
    assert seen == [notes]
    check_same(restored.tree, carry)
    keys = [restored.tree.key, *restored.tree.model_state["more"]]
    drawn = [jax.random.normal(key, (3,)).tolist() for key in keys]
    assert drawn == [jax.random.normal(key, (3,)).tolist() for key in [carry.key, *carry.model_state["more"]]]
    assert isinstance(restored.tree.ticket.params["w"], jax.Array)


def test_the_arrays_may_be_donated_after_save(tmp_path):
    carry = make_carry(1)
    expected = make_carry(1)
    with opened(tmp_path) as manager:
        checkpoint.save(manager, 1, carry, {})
        overwrite = jax.jit(lambda w: w * 0 - 1, donate_argnums=0)
        overwrite(carry.ticket.params["w"]).block_until_ready()
    with opened(tmp_path) as manager:
        check_same(checkpoint.restore_latest(manager, template).tree, expected)


def test_keeps_the_last_two(tmp_path):
    save_all(tmp_path, [1, 2, 5, 9])
    with opened(tmp_path) as manager:
        assert sorted(manager.all_steps()) == [5, 9]
        restored = checkpoint.restore_latest(manager, template)
    assert (restored.position, restored.notes) == (9, {"at": 9})
    check_same(restored.tree, make_carry(9))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["5", "9"]


def test_an_empty_folder_has_none(tmp_path):
    with opened(tmp_path / "new") as manager:
        assert checkpoint.restore_latest(manager, template) is None


@pytest.mark.parametrize("damage", [flip_byte, truncate, empty_all, delete_largest, delete_arrays, delete_meta])
def test_damage_is_skipped_for_the_one_before(tmp_path, damage):
    save_all(tmp_path, [4, 8])
    damage(tmp_path, 8)
    with opened(tmp_path) as manager:
        with pytest.warns(UserWarning, match=r"skipped the damaged checkpoint .*8"):
            restored = checkpoint.restore_latest(manager, template)
        assert (restored.position, restored.notes) == (4, {"at": 4})
        check_same(restored.tree, make_carry(4))
        checkpoint.save(manager, 8, make_carry(88), {"at": 88})  # its place can be written again
    with opened(tmp_path) as manager, warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = checkpoint.restore_latest(manager, template)
    assert (restored.position, restored.notes) == (8, {"at": 88})
    check_same(restored.tree, make_carry(88))


def test_the_digest_covers_the_arrays(tmp_path):
    """A change that Orbax can't notice: another checkpoint's arrays under this one's notes."""
    save_all(tmp_path, [4, 8])
    shutil.rmtree(tmp_path / "8" / "arrays")
    shutil.copytree(tmp_path / "4" / "arrays", tmp_path / "8" / "arrays")
    with opened(tmp_path) as manager:
        with pytest.warns(UserWarning, match=r"digest"):
            restored = checkpoint.restore_latest(manager, template)
        assert restored.position == 4
    check_same(restored.tree, make_carry(4))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_of_other_implementations(tmp_path, impl):
    """Small and large batches, on one device and on several."""
    keys = jax.random.split(jax.random.key(1, impl=impl), 2**14)  # 2**16 numbers
    tree = {"a": keys[0], "b": keys[:3], "c": keys}
    with opened(tmp_path) as manager:
        checkpoint.save(manager, 1, tree | {"c": jax.device_put(keys, on(4, "model"))}, {})
        manager.wait_until_finished()
        split = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=on(2, "data"))
        for like in (tree, jax.eval_shape(lambda: tree), tree | {"c": split}):
            check_same(checkpoint.restore_latest(manager, lambda notes, like=like: like).tree, tree)


def test_64_bits_of_numpy_are_kept_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    tree = {"n": np.int64(2**40), "w": rng.normal(size=3), "large": rng.integers(2**62, size=2**16)}
    with opened(tmp_path) as manager:
        checkpoint.save(manager, 1, tree, {})
        manager.wait_until_finished()
        check_same(checkpoint.restore_latest(manager, lambda notes: tree).tree, tree)
        for name in ("n", "large"):
            abstract = tree | {name: jax.ShapeDtypeStruct(np.shape(tree[name]), np.int64)}
            with pytest.raises(ValueError, match=f"{name}: expected int32 at most, got int64, which JAX would cut"):
                checkpoint.restore_latest(manager, lambda notes, like=abstract: like)
        with jax.enable_x64(True):
            restored = checkpoint.restore_latest(manager, lambda notes: jax.eval_shape(lambda: tree)).tree
            check_same(restored, tree)
            assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))


@pytest.mark.parametrize("size", [0, 2])
def test_an_empty_leaf_is_kept(tmp_path, size):
    """Alone of its dtype it made a vector without a number, which Orbax refuses to write."""
    tree = {"empty": jnp.zeros((3, 0), jnp.int8), "more": jnp.arange(size, dtype=jnp.int8), "w": jnp.ones(3)}
    with opened(tmp_path) as manager:
        checkpoint.save(manager, 1, tree, {})
        manager.wait_until_finished()
        check_same(checkpoint.restore_latest(manager, lambda notes: jax.eval_shape(lambda: tree)).tree, tree)


def test_the_other_order_of_bytes_is_restored(tmp_path):
    tree = {
        "small": np.arange(3, dtype=">f4"),
        "wide": np.arange(3, dtype=">i8"),
        "large": np.arange(2**16, dtype=">f4"),
    }
    with opened(tmp_path) as manager:
        checkpoint.save(manager, 1, tree, {})
        manager.wait_until_finished()
        restored = checkpoint.restore_latest(manager, lambda notes: tree).tree
    jax.tree.map(np.testing.assert_array_equal, restored, tree)


def test_all_damaged(tmp_path):
    save_all(tmp_path, [4, 8])
    flip_byte(tmp_path, 4)
    truncate(tmp_path, 8)
    with opened(tmp_path) as manager:
        with pytest.warns(UserWarning, match=r"skipped the damaged checkpoint") as warned:
            assert checkpoint.restore_latest(manager, template) is None
        assert [str(w.message).count("skipped the damaged checkpoint") for w in warned] == [1, 1]
        checkpoint.save(manager, 4, make_carry(4), {"at": 4})
    with opened(tmp_path) as manager:
        check_same(checkpoint.restore_latest(manager, template).tree, make_carry(4))


def test_foreign_notes_are_an_error_and_nothing_is_removed(tmp_path):
    save_all(tmp_path, [4])

    def refuse(notes):
        raise ValueError(f"expected a run of imp, got {notes}")

    with opened(tmp_path) as manager, pytest.raises(ValueError, match=r"expected a run of imp, got .*4"):
        checkpoint.restore_latest(manager, refuse)
    with opened(tmp_path) as manager:
        assert checkpoint.restore_latest(manager, template).position == 4


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"file"):
            checkpoint.open_folder(folder)


FAILED_WRITE = """
import pathlib, resource, shutil, sys
import jax.numpy as jnp
from rare_gems.storage import checkpoint

folder = pathlib.Path(sys.argv[1])
manager = checkpoint.open_folder(folder)
tree = {"w": jnp.arange(90_000.0)}
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # no file may grow beyond that
else:
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
try:
    try:
        checkpoint.save(manager, 1, tree, {})
    finally:
        checkpoint.close(manager)
except OSError:
    print("OSError", flush=True)
"""


@pytest.mark.parametrize("cause", ["full", "gone"])
def test_a_failed_write_is_an_oserror_and_the_process_ends(tmp_path, cause):
    command = [sys.executable, "-c", FAILED_WRITE, str(tmp_path / "run"), cause]
    apart = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}  # the limit may damage it
    done = subprocess.run(command, capture_output=True, text=True, timeout=15, env=apart)
    assert done.stdout == "OSError\n", done.stderr
    assert done.returncode == 0, done.stderr


def on(devices, *spec):
    """The sharding `spec` on a mesh ("data", "model") of so many devices, of which "data" has two if it can."""
    data = 2 if devices > 1 else 1
    mesh = jax.make_mesh(
        (data, devices // data), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices]
    )
    return NamedSharding(mesh, PartitionSpec(*spec))


def make_wide(seed=0):
    """Large and small leaves, which take turns; and the axes to split them along."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(64, 2048)).astype(np.float32)
    keys = jax.random.split(jax.random.key(seed), 2**15)  # 2**16 numbers
    tree = {
        "a": jnp.float32(w[0, :10]),
        "b": jnp.array(w),
        "c": jnp.array(w > 0),
        "d": jax.random.key(seed),
        "e": jnp.bfloat16(w[:32]),
        "f": jnp.int32(seed),
        "g": keys,
        "h": jnp.array(w.reshape(8, 8, 2048)[:, ::-1]),
    }
    axes = {"b": (None, "model"), "c": (None, ("data", "model")), "e": ("model",), "g": ("model",), "h": ("data",)}
    return tree, axes


def placed(devices, seed=0):
    tree, axes = make_wide(seed)
    return {name: jax.device_put(leaf, on(devices, *axes.get(name, ()))) for name, leaf in tree.items()}


def shapes_on(devices):
    tree, axes = make_wide()
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on(devices, *axes.get(name, ())))
        for name, x in tree.items()
    }


def test_from_any_number_of_devices_to_any_other(tmp_path):
    expected, _ = make_wide(7)
    bare = jax.eval_shape(lambda: make_wide()[0])
    there_and_back = [
        (placed(8, 7), [placed(4), shapes_on(2), shapes_on(1), bare]),
        (placed(2, 7), [shapes_on(8)]),
        (expected, [shapes_on(8)]),
    ]
    for i, (saved, templates) in enumerate(there_and_back):
        with opened(tmp_path / str(i)) as manager:
            checkpoint.save(manager, 1, saved, {})
            manager.wait_until_finished()
            for like in templates:
                tree = checkpoint.restore_latest(manager, lambda notes, like=like: like).tree
                check_same(tree, expected)
                for name, leaf in tree.items():
                    if like is bare:
                        assert leaf.devices() == {jax.devices()[0]}, name
                        continue
                    assert leaf.sharding.is_equivalent_to(like[name].sharding, leaf.ndim), name
                    part = like[name].sharding.shard_shape(leaf.shape)
                    assert {shard.data.shape for shard in leaf.addressable_shards} == {part}, name
    parts = {n: placed(n)["c"].addressable_shards[0].data.shape for n in (8, 4, 2)}
    assert parts == {8: (64, 256), 4: (64, 512), 2: (64, 1024)}  # the layouts do differ


@pytest.mark.parametrize("layout", [(1,), (8,), (8, None, "model")])
@pytest.mark.parametrize("way", ["donate", "delete"])
def test_large_arrays_may_be_donated_after_save(tmp_path, layout, way):
    start = np.random.default_rng(1).normal(size=(1024, 2048)).astype(np.float32)
    leaf = jax.jit(jnp.negative)(jax.device_put(-start, on(*layout)))
    with opened(tmp_path) as manager:
        checkpoint.save(manager, 1, {"w": leaf}, {})
        if way == "donate":
            jax.jit(lambda w: w * 0 - 1, donate_argnums=0)(leaf).block_until_ready()
        else:
            leaf.delete()
            jnp.full((1024, 2048), -1.0).block_until_ready()  # in the memory that is free now
    with opened(tmp_path) as manager:
        restored = checkpoint.restore_latest(manager, lambda notes: {"w": jax.ShapeDtypeStruct(start.shape, "float32")})
    assert np.array_equal(restored.tree["w"], start)


@pytest.mark.parametrize("damage", [flip_byte, truncate])
def test_damage_in_a_large_array(tmp_path, damage):
    with opened(tmp_path) as manager:
        for position in (4, 8):
            checkpoint.save(manager, position, placed(8, position), {})
    assert files_of(tmp_path, 8)[0].stat().st_size > 2**16
    damage(tmp_path, 8)
    warned = pytest.warns(checkpoint.DamagedCheckpoint, match=r"skipped the damaged checkpoint .*8")
    with opened(tmp_path) as manager, warned:
        restored = checkpoint.restore_latest(manager, lambda notes: shapes_on(4))
    assert restored.position == 4
    check_same(restored.tree, placed(8, 4))


def test_the_checksums_cover_the_large_arrays(tmp_path):
    """Changes that Orbax can't notice: another checkpoint's large array under this one's notes."""
    with opened(tmp_path) as manager:
        for position in (4, 8):
            w = jax.device_put(jnp.full((256, 256), float(position)), on(8, "model"))
            checkpoint.save(manager, position, {"small": jnp.arange(3), "w": w}, {})
    shutil.rmtree(tmp_path / "8" / "arrays")
    shutil.copytree(tmp_path / "4" / "arrays", tmp_path / "8" / "arrays")
    with opened(tmp_path) as manager:
        like = {"small": jnp.arange(3), "w": jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=on(2, "data"))}
        with pytest.warns(checkpoint.DamagedCheckpoint, match=r"checksum of leaf_1"):
            assert checkpoint.restore_latest(manager, lambda notes: like).position == 4


def test_a_large_array_of_another_shape_is_an_error(tmp_path):
    with opened(tmp_path) as manager:
        checkpoint.save(manager, 1, {"w": jnp.zeros((64, 2048))}, {})
        manager.wait_until_finished()
        with pytest.raises(ValueError, match=r"expected arrays .*\(2048, 64\).*, got .*\(64, 2048\)"):
            checkpoint.restore_latest(manager, lambda notes: {"w": jnp.zeros((2048, 64))})


def test_what_is_written_down(tmp_path):
    with opened(tmp_path) as manager:
        w = jnp.arange(2.0**16).reshape(256, 256)
        checkpoint.save(manager, 1, {"a": jnp.ones(2), "w": w, "x": jnp.zeros((2, 3))}, {"at": 1})
    meta = json.loads((tmp_path / "1" / "meta" / "metadata").read_text())
    assert meta["layout"] == {"float32": 8, "leaf_1": "float32 (256, 256)"}
    assert meta["checksums"] == {"leaf_1": int(checksum(w))}
