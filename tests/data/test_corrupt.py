"""Corrupted splits: each changes what it says, keeps the rest, and is the same every time."""

import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.data import corrupt
from rare_gems.data.dataset import Split


def make_split(count=400, shape=(6, 5, 3), classes=10):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    return Split(images, (np.arange(count) % classes).astype(np.int32))


def ramps(count, size):
    """Images whose values are all different, so that a permutation can be read off."""
    images = np.tile(np.arange(size, dtype=np.uint8), (count, 1)).reshape(count, 1, size, 1)
    return Split(images, np.zeros(count, np.int32))


def test_random_labels_are_uniform_and_owe_nothing_to_the_old_ones():
    split = make_split(20_000)
    out = corrupt.random_labels(split, 10, seed=0)
    assert out.images is split.images
    assert out.labels.dtype == np.int32
    table = np.zeros((10, 10))
    np.add.at(table, (split.labels, out.labels), 1)
    # 100 cells of 200 expected: chi squared has mean and standard deviation near 100 and 14.
    assert 50 < np.sum((table - 200) ** 2 / 200) < 160
    np.testing.assert_array_equal(corrupt.random_labels(split, 10, seed=0).labels, out.labels)
    assert np.mean(corrupt.random_labels(split, 10, seed=1).labels == out.labels) < 0.15
    assert set(corrupt.random_labels(split, 100, seed=0).labels.tolist()) == set(range(100))


def test_random_labels_known_answer():
    drawn = np.random.PCG64(np.random.SeedSequence([7, 0])).random_raw(5).tolist()
    got = corrupt.random_labels(make_split(5, classes=3), 3, seed=7).labels
    assert got.tolist() == [x % 3 for x in drawn]


@pytest.mark.parametrize("shape", [(6, 5, 3), (7, 3, 1), (1, 1, 1)])
def test_random_pixels_keeps_the_values_of_each_image(shape):
    split = make_split(300, shape)
    out = corrupt.random_pixels(split, seed=0)
    assert (out.images.shape, out.images.dtype) == (split.images.shape, np.uint8)
    assert out.labels is split.labels
    before, after = (np.sort(images.reshape(300, -1), axis=1) for images in (split.images, out.images))
    np.testing.assert_array_equal(after, before)
    if shape != (1, 1, 1):
        assert np.all(np.any(out.images != split.images, axis=(1, 2, 3)))
        assert not np.array_equal(corrupt.random_pixels(split, seed=1).images, out.images)
    np.testing.assert_array_equal(corrupt.random_pixels(split, seed=0).images, out.images)


def test_random_pixels_permutes_uniformly_and_each_image_otherwise():
    out = corrupt.random_pixels(ramps(20_000, 10), seed=3).images.reshape(-1, 10)
    table = np.stack([np.bincount(out[:, place], minlength=10) for place in range(10)])
    assert 40 < np.sum((table - 2000) ** 2 / 2000) < 140  # 81 degrees of freedom
    assert len(np.unique(out[:200], axis=0)) > 190


def test_an_image_has_its_permutation_whatever_the_others_are():
    split = ramps(3000, 100)
    out = corrupt.random_pixels(split, seed=0).images
    fewer = corrupt.random_pixels(Split(split.images[:1234], split.labels[:1234]), seed=0).images
    np.testing.assert_array_equal(fewer, out[:1234])


def test_half():
    split = make_split(401)
    out = corrupt.half(split, 10, seed=0)
    assert len(out.labels) == 200
    assert np.bincount(out.labels).tolist() == [20] * 10
    images = {image.tobytes() for image in split.images}
    chosen = [image.tobytes() for image in out.images]
    assert len(set(chosen)) == 200
    assert set(chosen) < images
    np.testing.assert_array_equal(corrupt.half(split, 10, seed=0).images, out.images)
    assert not np.array_equal(corrupt.half(split, 10, seed=1).images, out.images)


def test_splits_on_a_device_will_do():
    host = make_split(20)
    device = Split(jnp.asarray(host.images), jnp.asarray(host.labels))
    for change in (
        lambda split: corrupt.random_labels(split, 10, 0),
        lambda split: corrupt.random_pixels(split, 0),
        lambda split: corrupt.half(split, 10, 0),
    ):
        for a, b in zip(change(host), change(device), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b))


def test_mistakes():
    with pytest.raises(ValueError, match=r"expected labels in 0..4, got 0..9"):
        corrupt.random_labels(make_split(), 5, 0)
    with pytest.raises(ValueError, match="num_classes: expected 1 or more, got 0"):
        corrupt.random_labels(make_split(), 0, 0)
    with pytest.raises(ValueError, match="non-negative"):
        corrupt.random_labels(make_split(), 10, -1)
    with pytest.raises(ValueError, match="images: expected uint8, got float32"):
        corrupt.random_pixels(Split(np.zeros((2, 2, 2, 1), np.float32), np.zeros(2, np.int32)), 0)
    with pytest.raises(ValueError, match="split: expected 2 examples or more, got 1"):
        corrupt.half(make_split(1), 10, 0)
