"""Streamed batches: the same whoever makes them, crops worked by hand, corruptions, and files that cannot be read."""

import io
import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

from rare_gems.data import corrupt, crops, dataset, folder, stream_batches
from rare_gems.data import device_batches as on_device
from rare_gems.data import streamed_dataset as parts_of

NUM, SIZE = 22, 8
SETTINGS = {"batch_size": 4, "image_size": SIZE}


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def contents():
    """Noise of many sizes, every other one a JPEG."""
    generator = np.random.default_rng(0)
    shapes = [(20 + i, 41 - i, 3) for i in range(NUM)]
    return [encoded(generator.integers(0, 256, s, np.uint8), ("PNG", "JPEG")[i % 2]) for i, s in enumerate(shapes)]


@pytest.fixture(scope="module")
def examples(contents):
    """Labels are indices, so that a batch tells what it holds."""
    return parts_of.Examples(
        lambda i: (contents[i], i), lambda i: f"image-{i}.jpg", NUM, np.arange(NUM, dtype=np.int32)
    )


@pytest.fixture(scope="module")
def epoch(examples):
    return train(examples)


def train(examples, seed=5, **options):
    return jax.device_get(list(stream_batches.train_batches(examples, seed=seed, **SETTINGS, **options)))


def assert_equal(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_an_epoch(epoch, contents):
    assert len(epoch) == on_device.num_batches(NUM, 4) == 6
    for batch in epoch:
        assert (batch.images.shape, batch.images.dtype) == ((4, SIZE, SIZE, 3), np.uint8)
        assert (batch.labels.dtype, batch.weights.tolist()) == (np.int32, [1.0] * 4)
    seen = np.concatenate([batch.labels for batch in epoch]).tolist()
    assert sorted(seen[:NUM]) == list(range(NUM))
    assert seen[:NUM] != list(range(NUM))
    assert seen[NUM:] == seen[:2]  # filled up from the front
    for batch in epoch:
        for image, label in zip(np.asarray(batch.images), batch.labels.tolist(), strict=True):
            np.testing.assert_array_equal(image, crops.train_image(contents[label], label, SIZE, seed=5))


def test_seeds(examples, epoch):
    assert_equal(train(examples), epoch)
    other = train(examples, seed=6)
    assert [b.labels.tolist() for b in other] != [b.labels.tolist() for b in epoch]
    drawn = {seed: crops.draw_crop(seed, 3, 500, 375) for seed in range(20)}
    assert len(set(drawn.values())) == 20


@pytest.mark.parametrize("options", [{"num_threads": 1}, {"num_threads": 7}, {"prefetch": 1}], ids=str)
def test_threads_make_no_difference(examples, epoch, options):
    assert_equal(train(examples, **options), epoch)


@pytest.mark.parametrize("first", [1, 5, 6])
def test_resumed(examples, epoch, first):
    assert_equal(train(examples, first=first), epoch[first:])


@pytest.mark.parametrize("count", [2, 4])
def test_shards_make_up_the_whole(examples, epoch, count):
    parts = [train(examples, shard=(index, count), first=1) for index in range(count)]
    for batch, *rows in zip(epoch[1:], *parts, strict=True):
        for index, part in enumerate(rows):
            jax.tree.map(lambda a, b, i=index: np.testing.assert_array_equal(a, b[i::count]), part, batch)


def test_eval_in_order(examples, contents):
    batches = jax.device_get(list(stream_batches.eval_batches(examples, **SETTINGS)))
    labels, weights = (np.concatenate([getattr(b, name) for b in batches]) for name in ("labels", "weights"))
    assert labels.tolist() == [*range(NUM), 0, 0]
    assert weights.tolist() == [1.0] * NUM + [0.0] * 2
    assert (labels.dtype, weights.dtype) == (np.int32, np.float32)
    images = np.concatenate([b.images for b in batches])
    np.testing.assert_array_equal(images[7], crops.eval_image(contents[7], SIZE))
    assert not images[NUM:].any()
    parts = [jax.device_get(list(stream_batches.eval_batches(examples, shard=(i, 2), **SETTINGS))) for i in range(2)]
    for batch, *rows in zip(batches, *parts, strict=True):
        for i, part in enumerate(rows):
            jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a, b[i::2]), part, batch)
    (large,) = stream_batches.eval_batches(examples, batch_size=30, image_size=SIZE)  # larger than the data
    assert large.weights.sum() == NUM


def test_placed_on_the_device_asked_for(examples):
    one = next(stream_batches.train_batches(examples, seed=0, device=jax.devices()[3], **SETTINGS))
    assert one.images.devices() == {jax.devices()[3]}
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    many = next(stream_batches.train_batches(examples, seed=0, device=sharding, **SETTINGS))
    assert many.images.sharding == many.labels.sharding == sharding
    jax.tree.map(np.testing.assert_array_equal, one, many)


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_reads_ahead_but_not_far_and_stops_when_closed(examples):
    reads = []
    counted = examples._replace(read=lambda i: (reads.append(i), examples.read(i % NUM))[1], num=4000)
    batches = stream_batches.train_batches(counted, seed=0, num_threads=2, prefetch=2, **SETTINGS)
    next(batches)
    # Asked for 4 images: two batches on the device, one each in two threads' hands and between them, 4 images loose.
    assert wait_for(lambda: len(reads) >= 4 + 2 * 4)
    time.sleep(0.05)
    assert len(reads) <= 4 + (2 + 3) * 4 + 4 + 2
    batches.close()
    assert wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("grain")])


# Crops.


@pytest.mark.parametrize(("width", "height"), [(500, 375), (64, 64), (30, 1000), (1000, 30), (1, 1), (1, 50), (3, 2)])
def test_crops_lie_within(width, height):
    for index in range(100):
        (left, top, right, bottom), _ = crops.draw_crop(0, index, width, height)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_distribution_of_crops():
    drawn = [crops.draw_crop(1, index, 1000, 1000) for index in range(2000)]
    left, top, right, bottom = np.array([box for box, _ in drawn]).T
    area, aspect = (right - left) * (bottom - top) / 1e6, (right - left) / (bottom - top)
    assert 0.0795 < area.min() < 0.09
    assert 0.97 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.35
    assert abs(np.log(aspect).mean()) < 0.02
    small = area < 0.5  # where nothing is rejected, uniform: standard error 0.12 / sqrt(900)
    assert abs(area[small].mean() - 0.29) < 0.012
    for corner, room in ((left, 1000 - (right - left)), (top, 1000 - (bottom - top))):
        assert abs((corner / np.maximum(room, 1)).mean() - 0.5) < 0.025
    assert abs(np.mean([flip for _, flip in drawn]) - 0.5) < 0.04


@pytest.mark.parametrize(
    ("size", "box"), [((30, 1000), (0, 480, 30, 520)), ((1000, 30), (480, 0, 520, 30)), ((1, 50), (0, 24, 1, 25))]
)
def test_narrow_images_give_their_middle(size, box):
    assert {crops.draw_crop(0, index, *size)[0] for index in range(20)} == {box}


def ramp(width, height, step):
    """Red grows to the right and green downwards, by one each `step` pixels; blue is 7."""
    x, y = np.meshgrid(np.arange(width) // step, np.arange(height) // step)
    return np.stack([x, y, np.full_like(x, 7)], -1).astype(np.uint8)


def test_eval_crop_by_hand():
    # 512 x 256 needs no resize for 224: rows 16 .. 239, columns 144 .. 367.
    across, down = np.arange(144, 368) // 2, np.arange(16, 240)
    pixels = ramp(512, 256, 1)
    pixels[..., 0] = np.arange(512) // 2  # the ramp itself would overflow
    image = crops.eval_image(encoded(pixels), 224)
    np.testing.assert_array_equal(image[..., 0], np.broadcast_to(across, (224, 224)))
    np.testing.assert_array_equal(image[..., 1], np.broadcast_to(down[:, None], (224, 224)))
    assert (image[..., 2] == 7).all()
    # Halved: the pixel i of the crop is centred on source position 2 (144 + i) + 1, a value of (288 + 2 i + 0.5) / 5.
    image = crops.eval_image(encoded(ramp(1024, 512, 5)), 224)
    expected = (288 + 2 * np.arange(224) + 0.5) / 5 - 0.4
    np.testing.assert_allclose(image[100, :, 0], expected, atol=1)
    portrait = crops.eval_image(encoded(ramp(512, 1024, 5)), 224)
    np.testing.assert_allclose(portrait[:, 100, 1], expected, atol=1)


@pytest.mark.parametrize(("size", "image_size", "resized"), [((90, 61), 32, (54, 37)), ((61, 90), 32, (37, 54)),
                                                             ((20, 20), 32, (37, 37))])  # fmt: skip
def test_eval_crop_is_resize_and_crop(size, image_size, resized):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    left, top = (round((n - image_size) / 2) for n in resized)
    whole = np.asarray(image.resize(resized, Image.Resampling.BILINEAR))
    expected = whole[top : top + image_size, left : left + image_size]
    np.testing.assert_allclose(crops.eval_image(encoded(image), image_size).astype(int), expected, atol=1)


def test_train_crop_is_resized_and_mirrored():
    pixels, flips = ramp(500, 375, 2), set()
    for index in range(6):
        (left, top, right, bottom), flip = crops.draw_crop(0, index, 500, 375)
        got = crops.train_image(encoded(pixels), index, 100, seed=0)
        middle = (np.arange(100) + 0.5) / 100  # of the pixels of the result, across the crop
        x = (left + (right - left) * middle - 0.5) / 2 - 0.25
        y = (top + (bottom - top) * middle - 0.5) / 2 - 0.25
        np.testing.assert_allclose(got[50, :, 0], x[::-1] if flip else x, atol=1.5)
        np.testing.assert_allclose(got[:, 50, 1], y, atol=1.5)
        flips.add(flip)
    assert flips == {True, False}


@pytest.mark.parametrize(("image_size", "decoded"), [(16, 8), (90, 2), (200, 1)])
def test_jpeg_is_decoded_no_larger_than_needed(image_size, decoded, monkeypatch):
    x, y = np.meshgrid(np.arange(499), np.arange(373))
    smooth = np.stack([x * 255 / 498, y * 255 / 372, 127 + 80 * np.sin(x / 60)], -1).astype(np.uint8)
    content = encoded(smooth, "JPEG", quality=95)
    sizes, resize = [], crops._resize
    monkeypatch.setattr(crops, "_resize", lambda image, *args: (sizes.append(image.size), resize(image, *args))[1])
    index = 5  # a crop of 287 x 280 pixels, mirrored
    got = crops.train_image(content, index, image_size, seed=0)
    assert sizes == [(-(-499 // decoded), -(-373 // decoded))]
    box, flip = crops.draw_crop(0, index, 499, 373)
    whole = Image.open(io.BytesIO(content)).crop(box).resize((image_size, image_size), Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[:, ::-1] if flip else np.asarray(whole)
    inner = slice(1, -1)  # at the border, what lies beyond the crop counts too
    np.testing.assert_allclose(got[inner, inner].astype(int), expected[inner, inner], atol=4)


@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"),
                                            ("LA", "PNG"), ("1", "PNG"), ("L", "TIFF"), ("RGB", "WEBP")])  # fmt: skip
def test_any_mode_becomes_rgb(mode, kind):
    content = encoded(Image.new("RGB", (30, 20), (255, 255, 255)).convert(mode), kind)
    for image in (crops.train_image(content, 0, 10, seed=0), crops.eval_image(content, 10)):
        assert (image.shape, image.dtype) == ((10, 10, 3), np.uint8)
        assert (image >= 253).all()


# Parts and corruptions.


def read_labels(examples):
    return [examples.read(i)[1] for i in range(examples.num)]


def test_parts(examples):
    labels = np.repeat(np.arange(4), [10, 6, 4, 2]).astype(np.int32)
    known = examples._replace(labels=labels)
    part = parts_of.subset(known, 10, 4, seed=3)
    expected = dataset.subset(dataset.Split(np.arange(NUM), labels), 10, 4, seed=3)
    assert part.num == 10
    assert read_labels(part) == expected.images.tolist()  # here, what is read is the index
    assert [part.name(i) for i in range(10)] == [f"image-{i}.jpg" for i in expected.images]
    assert np.bincount(part.labels).tolist() == [3, 3, 2, 2]
    assert part.upright
    assert not parts_of.subset(known._replace(upright=False), 10, 4, seed=3).upright
    half = parts_of.half(known, 4, seed=3)
    assert half.num == 11
    assert np.bincount(half.labels).tolist() == [3, 3, 3, 2]
    unknown = parts_of.half(examples._replace(labels=None), 4, seed=3)
    assert (unknown.num, unknown.labels) == (11, None)
    assert len(set(read_labels(unknown))) == 11


def test_hold_out(examples):
    whole = parts_of.Streamed("made", examples, examples, None, NUM, (0.5,) * 3, (0.25,) * 3, SIZE, "")
    held = parts_of.hold_out(whole, 5, seed=0)
    assert (held.train.num, held.validation.num) == (17, 5)
    assert sorted(read_labels(held.train) + read_labels(held.validation)) == list(range(NUM))
    assert held.train.labels.tolist() == read_labels(held.train)
    with pytest.raises(ValueError, match="without validation split, got one of 5"):
        parts_of.hold_out(held, 5, seed=0)
    with pytest.raises(ValueError, match="between 1 and 21 validation examples, got 22"):
        parts_of.hold_out(whole, 22, seed=0)


def test_random_labels(examples):
    drawn = parts_of.random_labels(examples, NUM, seed=7)
    expected = corrupt.random_labels(dataset.Split(np.zeros(NUM), examples.labels), NUM, seed=7).labels
    assert drawn.labels.tolist() == read_labels(drawn) == expected.tolist()
    assert drawn.read(3)[0] == examples.read(3)[0]
    unread = parts_of.random_labels(examples._replace(read=None, labels=None), NUM, seed=7)
    assert unread.labels.tolist() == expected.tolist()


def test_random_pixels(examples, contents):
    scrambled = parts_of.random_pixels(examples, seed=7)
    once = {int(x): np.asarray(i) for b in train(scrambled) for i, x in zip(b.images, b.labels, strict=True)}
    again = {int(x): np.asarray(i) for b in train(scrambled, seed=6) for i, x in zip(b.images, b.labels, strict=True)}
    assert len(once) == NUM
    for label, image in once.items():
        clean = crops.eval_image(contents[label], SIZE)
        np.testing.assert_array_equal(np.sort(image.ravel()), np.sort(clean.ravel()))
        np.testing.assert_array_equal(image, again[label])
        assert (image != clean).mean() > 0.9
    other = parts_of.random_pixels(examples, seed=8)
    assert (other.scramble(0, once[0]) != scrambled.scramble(0, once[0])).mean() > 0.9
    # The permutation belongs to the image: another one's differs, and a part of the data keeps its own.
    steps = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    assert (scrambled.scramble(0, steps) != scrambled.scramble(1, steps)).mean() > 0.9
    part = parts_of.subset(scrambled, 5, NUM, seed=0)
    np.testing.assert_array_equal(part.scramble(4, steps), scrambled.scramble(int(part.labels[4]), steps))


def test_listing(tmp_path, contents):
    files = [tmp_path / f"{i}.jpg" for i in range(4)]
    for file, content in zip(files, contents, strict=False):
        file.write_bytes(content)
    listing = folder.Listing(tuple(files), np.array([2, 0, 1, 2], np.int32))
    listed = parts_of.from_listing(listing.files, listing.labels)
    (batch,) = stream_batches.eval_batches(listed, **SETTINGS)
    assert batch.labels.tolist() == [2, 0, 1, 2]
    np.testing.assert_array_equal(batch.images[3], crops.eval_image(contents[3], SIZE))
    files[2].unlink()
    with pytest.raises(ValueError, match=rf"cannot read image {files[2]}: .*No such file"):
        list(stream_batches.eval_batches(listed, **SETTINGS))
    with pytest.raises(ValueError, match=r"labels: expected shape \(4,\).*got \(3,\)"):
        parts_of.from_listing(files, [1, 2, 3])


# What cannot be read.


def damaged(examples, contents, *broken):
    whole = dict(enumerate(contents)) | {i: b"text" if i % 2 == 0 else contents[i][:-200] for i in broken}
    return examples._replace(read=lambda i: (whole[i], i))


@pytest.mark.parametrize(("index", "why"), [(6, "expected one of JPEG, PNG.* got 4 bytes of"), (7, "[Tt]runcated")])
def test_a_broken_image_is_named(examples, contents, index, why):
    for batches in (
        stream_batches.train_batches(damaged(examples, contents, index), seed=0, **SETTINGS),
        stream_batches.eval_batches(damaged(examples, contents, index), **SETTINGS),
    ):
        with pytest.raises(ValueError, match=rf"^cannot read image image-{index}\.jpg: .*{why}") as caught:
            list(batches)
        assert "\n" not in str(caught.value)
    assert wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("grain")])


def test_broken_images_are_skipped(examples, contents, epoch):
    broken = []
    got = train(damaged(examples, contents, 6, 7, 21), skip_broken=broken)
    assert sorted(text.split(": ")[0] for text in broken) == [f"cannot read image image-{i}.jpg" for i in (21, 6, 7)]
    for batch, clean in zip(got, epoch, strict=True):
        stand_in = {6: 8, 7: 8, 21: 0}
        assert batch.labels.tolist() == [stand_in.get(x, x) for x in clean.labels.tolist()]
        for image, label in zip(np.asarray(batch.images), batch.labels.tolist(), strict=True):
            np.testing.assert_array_equal(image, crops.train_image(contents[label], label, SIZE, seed=5))
    train(damaged(examples, contents, 6, 7, 21), seed=9, skip_broken=broken)
    assert len(broken) == 3  # each once
    images = jax.device_get(
        list(stream_batches.eval_batches(damaged(examples, contents, 6), skip_broken=broken, **SETTINGS))
    )
    assert images[1].weights.tolist() == [1, 1, 0, 1]
    assert not images[1].images[2].any()
    assert np.concatenate([b.weights for b in images]).sum() == NUM - 1


def test_images_known_to_be_broken_do_not_count_among_those_found_in_training(examples, contents):
    known = [f"scan-{i}.jpg: empty file" for i in range(15)]
    broken = list(known)
    train(damaged(examples, contents, 6, 7), skip_broken=broken)
    assert broken[:15] == known
    assert len(broken) == 17
    with pytest.raises(ValueError, match="more than 25 broken images, the last: cannot read"):
        train(damaged(examples, contents, *range(1, 12)), skip_broken=list(known))


def test_too_many_broken_images(examples, contents):
    with pytest.raises(ValueError, match=r"more than 10 broken images, the last: cannot read image image-"):
        train(damaged(examples, contents, *range(1, 12)), skip_broken=[])
    few = damaged(examples, contents, *range(6))._replace(num=6)
    with pytest.raises(ValueError, match=r"none of 6 images can be read, the last: cannot read"):
        train(few, skip_broken=[])


@pytest.mark.parametrize(("options", "message"), [
    ({"batch_size": 23}, "batch_size between 1 and the 22 examples, got 23"),
    ({"batch_size": 5, "shard": (0, 2)}, "batch_size: expected a multiple of the 2 shards, got 5"),
    ({"shard": (2, 2)}, r"shard: expected \(index, count\) with an index below count, got \(2, 2\)"),
    ({"seed": 2**32}, "seed: expected 0 to 4294967295, got 4294967296"),
    ({"seed": -1}, "seed: expected 0 to 4294967295, got -1"),
    ({"first": 7}, "first: expected a batch from 0 to 6, got 7"),
    ({"image_size": 0}, "image_size: expected 1 or more, got 0"),
    ({"num_threads": 0}, "num_threads: expected 1 or more, got 0"),
    ({"prefetch": 0}, "prefetch: expected 1 or more, got 0"),
])  # fmt: skip
def test_wrong_arguments(examples, options, message):
    with pytest.raises(ValueError, match=message):
        stream_batches.train_batches(
            examples, **{"seed": 0} | SETTINGS | options
        )  # before the first batch is asked for


def test_wrong_arguments_of_others(examples):
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 1 shards, got 0"):
        stream_batches.eval_batches(examples, batch_size=0, image_size=8)
    with pytest.raises(ValueError, match="seed: expected 0 to 4294967295, got -1"):
        parts_of.random_pixels(examples, -1)
    with pytest.raises(ValueError, match="expected 2 or more, got 1"):
        parts_of.half(examples._replace(num=1, labels=None), 2, seed=0)
    with pytest.raises(ValueError, match=r"expected labels in 0..20, got 0..21"):
        parts_of.subset(examples, 3, 21, seed=0)
