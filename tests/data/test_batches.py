"""Images on their way into a network."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from il2m.data.batches import ImageBatches, Normalisation, channel_mean_std

AS_THEY_ARE = Normalisation((0.0,), (1 / 255,))  # pixel values stay 0..255


def batches_of(images: np.ndarray, labels: np.ndarray | None = None) -> ImageBatches:
    return ImageBatches(images, np.arange(len(images)) if labels is None else labels, AS_THEY_ARE)


def one_epoch(batches: ImageBatches, batch_size: int, seed: int = 0, max_shift: int = 0, flip: bool = False):
    generator = torch.Generator().manual_seed(seed)
    return list(batches.augmented(batch_size, generator, max_shift=max_shift, flip=flip))


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_by_channel(channels):
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, channels), dtype=np.uint8)
    normalisation = channel_mean_std(images)
    np.testing.assert_allclose(normalisation.mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(normalisation.std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_is_not_divided_by_zero():
    assert channel_mean_std(np.full((2, 3, 3, 1), 51, np.uint8)) == Normalisation((0.2,), (1.0,))


def test_plain_batches_hold_every_image_once_in_order():
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
    before, labels = images.copy(), np.arange(10) % 3
    normalisation = channel_mean_std(images)
    batches = list(ImageBatches(images, labels, normalisation).plain(batch_size=4))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    expected = (images / 255 - normalisation.mean) / normalisation.std
    got = torch.cat([x for x, _ in batches])
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(got.permute(0, 2, 3, 1), expected, atol=1e-5)
    np.testing.assert_array_equal(torch.cat([y for _, y in batches]), labels)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("batch_size", [2, 3, 32, 500, 1500])
@pytest.mark.parametrize("n", [2, 3, 32, 33, 64, 1023, 1025, 1501, 2049])
def test_every_image_once_per_epoch_and_no_batch_of_one(n, batch_size):
    images = np.broadcast_to((np.arange(n) % 251).astype(np.uint8)[:, None, None, None], (n, 2, 2, 1))
    epoch = one_epoch(batches_of(images), batch_size)
    sizes = [len(y) for _, y in epoch]
    assert min(sizes) >= 2
    assert max(sizes) <= batch_size + 1
    labels = torch.cat([y for _, y in epoch])
    np.testing.assert_array_equal(labels.sort().values, np.arange(n))
    np.testing.assert_array_equal(torch.cat([x for x, _ in epoch])[:, 0, 0, 0], labels % 251)


def test_order_follows_the_generator_and_changes_by_epoch():
    batches = batches_of(np.zeros((50, 2, 2, 1), np.uint8))
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.cat([y for _, y in batches.augmented(8, generator, max_shift=0, flip=False)]) for _ in range(2)
    )
    np.testing.assert_array_equal(first, torch.cat([y for _, y in one_epoch(batches, 8)]))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat([y for _, y in one_epoch(batches, 8, seed=1)]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("max_shift", "flip"), [(0, False), (0, True), (2, False), (1, True)])
def test_shift_is_a_slice_of_the_border_replicated_image_and_flip_its_mirror(max_shift, flip, channels):
    images = np.random.default_rng(0).integers(0, 256, (400, 5, 6, channels), dtype=np.uint8)
    before = images.copy()
    ways = set()
    for x, y in one_epoch(batches_of(images), 32, max_shift=max_shift, flip=flip):
        for got, i in zip(x.permute(0, 2, 3, 1).numpy(), y.tolist(), strict=True):
            padded = np.pad(images[i], ((max_shift,) * 2, (max_shift,) * 2, (0, 0)), mode="edge")
            candidates = {
                (dy, dx, mirrored): padded[dy : dy + 5, dx : dx + 6][:, :: -1 if mirrored else 1]
                for dy in range(2 * max_shift + 1)
                for dx in range(2 * max_shift + 1)
                for mirrored in (False, True)
            }
            matching = [way for way, image in candidates.items() if np.abs(image - got).max() < 1e-3]
            assert len(matching) == 1, f"image {i} is no shifted or mirrored self"
            ways.update(matching)
    assert {way[2] for way in ways} == ({False, True} if flip else {False})
    assert {way[:2] for way in ways} == {
        (dy, dx) for dy in range(2 * max_shift + 1) for dx in range(2 * max_shift + 1)
    }, "every shift is met"
    np.testing.assert_array_equal(images, before)


def test_augmentation_follows_the_generator():
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 1), dtype=np.uint8)
    first, again, other = (
        torch.cat([x for x, _ in one_epoch(batches_of(images), 8, seed=seed, max_shift=2, flip=True)])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_to_a_device_leaves_the_batches_themselves_alone():
    batches = batches_of(np.zeros((4, 2, 2, 1), np.uint8))
    moved = batches.to(torch.device("meta"))
    assert moved.images.device.type == "meta"
    assert batches.images.device.type == "cpu"
    assert len(moved) == len(batches) == 4


def test_images_on_a_gpu_are_drawn_looked_up_and_prepared_there():
    """Without one: torch's fake tensors refuse to mix devices, and to read values."""
    images = np.zeros((70, 6, 7, 3), np.uint8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        batches = batches_of(images).to(torch.device("cuda"))
        epoch = one_epoch(batches, 32, max_shift=2, flip=True) + list(batches.plain(32))
        assert [len(y) for _, y in epoch] == 2 * [32, 32, 6]
        assert {part.device.type for batch in epoch for part in batch} == {"cuda"}
