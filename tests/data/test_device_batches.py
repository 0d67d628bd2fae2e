"""Batches: order, augmentation against plain loops, normalisation, padding; under jit, vmap and scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.data import dataset, device_batches

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def make_split(count, height=8, width=6, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, height, width, channels), np.uint8)
    return dataset.Split(jnp.asarray(images), jnp.arange(count, dtype=jnp.int32))


def loop_crop_and_flip(images, rows, columns, flips, padding):
    """The same by explicit loops over a padded copy of each image."""
    count, height, width, _ = images.shape
    out = np.empty_like(images)
    for i in range(count):
        padded = np.pad(images[i], ((padding, padding), (padding, padding), (0, 0)))
        crop = padded[rows[i] : rows[i] + height, columns[i] : columns[i] + width]
        out[i] = crop[:, ::-1] if flips[i] else crop
    return out


def loop_normalise(images):
    return (images.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)


@pytest.mark.parametrize(("examples", "size", "expected"), [(10, 4, 3), (12, 4, 3), (1, 1, 1), (50000, 128, 391)])
def test_num_batches(examples, size, expected):
    assert device_batches.num_batches(examples, size) == expected


@pytest.mark.parametrize("size", [0, -1, 11])
def test_num_batches_refuses(size):
    with pytest.raises(ValueError, match=f"between 1 and the 10 examples, got {size}"):
        device_batches.num_batches(10, size)
    with pytest.raises(ValueError, match=f"got {size}"):
        device_batches.epoch_order(jax.random.key(0), 10, size)


@pytest.mark.parametrize(("examples", "size"), [(10, 4), (12, 4), (7, 7), (7, 6)])
def test_epoch_order_is_a_permutation_whose_start_fills_the_last_batch(examples, size):
    order = jax.jit(device_batches.epoch_order, static_argnums=(1, 2))(jax.random.key(3), examples, size)
    flat = np.asarray(order).reshape(-1)
    assert order.dtype == jnp.int32
    assert order.shape == (-(-examples // size), size)
    assert sorted(flat[:examples]) == list(range(examples))
    np.testing.assert_array_equal(flat[examples:], flat[: flat.size - examples])


def test_epoch_order_depends_on_the_key_only():
    first, again = (device_batches.epoch_order(jax.random.key(0), 100, 10) for _ in range(2))
    other = device_batches.epoch_order(jax.random.key(1), 100, 10)
    assert (first == again).all()
    assert (first != other).mean() > 0.9


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_and_flip_equals_loops_at_every_offset(padding):
    span = range(2 * padding + 1)
    rows, columns, flips = (
        np.array(x) for x in zip(*[(r, c, f) for r in span for c in span for f in (False, True)], strict=True)
    )
    images = np.asarray(make_split(len(rows)).images)
    got = jax.jit(device_batches.crop_and_flip, static_argnums=4)(
        images, rows.astype(np.int32), columns.astype(np.int32), flips, padding
    )
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(got, loop_crop_and_flip(images, rows, columns, flips, padding))


def test_crop_pads_with_black_and_flips_by_hand():
    image = jnp.array([[1, 2], [3, 4]], jnp.uint8)[None, :, :, None]
    corner, zero = jnp.zeros(1, jnp.int32), jnp.zeros(1, bool)
    assert device_batches.crop_and_flip(image, corner, corner, zero, 1)[0, :, :, 0].tolist() == [[0, 0], [0, 1]]
    assert device_batches.crop_and_flip(image, corner, corner, ~zero, 1)[0, :, :, 0].tolist() == [[0, 0], [1, 0]]
    assert device_batches.crop_and_flip(image, corner + 1, corner + 2, zero, 1)[0, :, :, 0].tolist() == [
        [2, 0],
        [4, 0],
    ]


def test_augment_uses_the_drawn_offsets():
    key, split = jax.random.key(5), make_split(64)
    rows, columns, flips = device_batches.draw_offsets(key, 64, 2, True)
    expected = loop_crop_and_flip(*map(np.asarray, (split.images, rows, columns, flips)), 2)
    got = jax.jit(device_batches.augment, static_argnums=(2, 3))(key, split.images, 2, True)
    np.testing.assert_array_equal(got, expected)


def test_offsets_are_uniform_and_independent():
    count, bound = 20000, 9
    rows, columns, flips = map(np.asarray, device_batches.draw_offsets(jax.random.key(0), count, 4, True))
    assert rows.dtype == columns.dtype == np.int32
    for values, size in (
        (rows, bound),
        (columns, bound),
        (flips.astype(int), 2),
        (rows * bound + columns, bound**2),
    ):
        counts = np.bincount(values, minlength=size)
        assert counts.shape == (size,)  # nothing beyond the last offset
        deviation = (counts - count / size) / np.sqrt(count / size * (1 - 1 / size))
        assert np.abs(deviation).max() < 4.5
    assert abs(np.corrcoef(flips, rows)[0, 1]) < 0.03
    assert abs(np.corrcoef(flips, columns)[0, 1]) < 0.03


def test_no_flip_and_no_crop():
    rows, columns, flips = device_batches.draw_offsets(jax.random.key(0), 50, 0, False)
    assert not rows.any()
    assert not columns.any()
    assert not flips.any()
    split = make_split(50)
    assert (device_batches.augment(jax.random.key(0), split.images, 0, False) == split.images).all()
    flipped = (device_batches.augment(jax.random.key(0), split.images, 0, True) != split.images).any((1, 2, 3))
    assert 10 < flipped.sum() < 40
    with pytest.raises(ValueError, match="0 pixels or more, got -1"):
        device_batches.augment(jax.random.key(0), split.images, -1, False)


def test_normalise():
    images = np.asarray(make_split(20).images)
    got = device_batches.normalise(jnp.asarray(images), MEAN, STD)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, loop_normalise(images), atol=1e-6)
    with pytest.raises(ValueError, match="3 channels, got 1 and 3"):
        device_batches.normalise(jnp.asarray(images), (0.5,), STD)


def test_train_batch_pads_before_normalising():
    split, key = make_split(20), jax.random.key(7)
    indices = jnp.array([3, 19, 0, 3], jnp.int32)
    batch = jax.jit(
        lambda split, indices, key: device_batches.train_batch(
            split, indices, key, mean=MEAN, std=STD, crop_padding=4, flip=True
        )
    )(split, indices, key)
    rows, columns, flips = device_batches.draw_offsets(key, 4, 4, True)
    picked = np.asarray(split.images)[[3, 19, 0, 3]]
    moved = loop_crop_and_flip(picked, *map(np.asarray, (rows, columns, flips)), 4)
    np.testing.assert_allclose(batch.images, loop_normalise(moved), atol=1e-6)
    assert batch.labels.tolist() == [3, 19, 0, 3]
    assert batch.labels.dtype == jnp.int32
    assert batch.weights.tolist() == [1, 1, 1, 1]
    assert batch.weights.dtype == jnp.float32


def test_eval_batches_count_each_example_once():
    split, size = make_split(10), 4
    step = jax.jit(lambda first: device_batches.eval_batch(split, first, size, mean=MEAN, std=STD))
    total, seen = 0.0, []
    for first in range(0, 10, size):
        batch = step(first)
        counted = np.asarray(batch.weights) == 1
        seen += np.asarray(batch.labels)[counted].tolist()
        total += float((batch.images.sum((1, 2, 3)) * batch.weights).sum())
        assert batch.images.shape == (4, 8, 6, 3)
        assert set(np.asarray(batch.weights).tolist()) <= {0.0, 1.0}
    assert seen == list(range(10))
    assert total == pytest.approx(loop_normalise(np.asarray(split.images)).sum(), rel=1e-5)


def test_eval_batch_larger_than_the_split():
    batch = device_batches.eval_batch(make_split(3), 0, 5, mean=MEAN, std=STD)
    assert batch.weights.tolist() == [1, 1, 1, 0, 0]


def test_under_scan_and_vmap_as_alone():
    split, key = make_split(10), jax.random.key(0)
    order = device_batches.epoch_order(key, 10, 4)
    keys = jax.random.split(key, 3)

    def one(indices, key):
        return device_batches.train_batch(split, indices, key, mean=MEAN, std=STD, crop_padding=1, flip=True)

    _, scanned = jax.lax.scan(lambda carry, x: (carry, one(*x)), 0, (order, keys))
    mapped = jax.vmap(one)(order, keys)
    for i in range(3):
        alone = jax.jit(one)(order[i], keys[i])
        for got in (scanned, mapped):
            np.testing.assert_allclose(got.images[i], alone.images, atol=1e-6)
            np.testing.assert_array_equal(got.labels[i], alone.labels)
    orders = jax.vmap(lambda key: device_batches.epoch_order(key, 10, 4))(keys)
    assert sorted(np.asarray(orders[2]).reshape(-1)[:10]) == list(range(10))
