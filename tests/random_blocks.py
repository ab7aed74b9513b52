"""Blocks of random images, crops and labels."""

from __future__ import annotations

import numpy as np
from conftest import random_probs

from softlabel_codec.block.families import label_quantiser
from softlabel_codec.block.layout import BlockImages
from softlabel_codec.quantise.field import FieldCodes
from softlabel_codec.quantise.full_tails import FullTailCodes
from softlabel_codec.quantise.places import Places, edges_of
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.sampler import CropSampler

SAMPLER = CropSampler(seed=2**50 + 1, ratio=(0.1, 10.0))


def pixel_crops(rng, size, count):
    """Return crops of every shape, whole images and single pixels among them."""
    height, width = size
    crop_height, crop_width = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    top, left = rng.integers(0, height - crop_height + 1), rng.integers(0, width - crop_width + 1)
    return np.stack([top, left, crop_height, crop_width], axis=1)


def block_images(rng, codec, num_classes, sizes, counts, mode="pixels", checksums=False):
    total = sum(counts)
    probs = random_probs(rng, total, num_classes)
    crops = np.concatenate([pixel_crops(rng, size, count) for size, count in zip(sizes, counts, strict=True)])
    flips = rng.random(total) < 0.5
    keys = [f"n{number}/image-{rng.integers(10**6)}.JPEG" for number in range(len(sizes))]
    if mode == "derived":
        sampled = [SAMPLER.sample(key, size, range(count)) for key, size, count in zip(keys, sizes, counts, strict=True)]
        crops, flips = (np.concatenate(parts) for parts in zip(*sampled, strict=True))
    elif mode != "pixels":
        crops = rng.uniform(0, 1, (total, 4)).astype("f4" if mode.endswith("32") else "f2")
    codes = codes_of(codec, num_classes, np.split(probs, np.cumsum(counts)[:-1]), places_of(crops, sizes, counts))
    crc32s = rng.integers(0, 2**32, len(sizes)) if checksums else None
    return BlockImages(keys, np.array(sizes), np.array(counts), crops, flips, codes, crc32s)


def places_of(crops, sizes, counts):
    """Return where the crops of each image are."""
    parts = np.split(crops, np.cumsum(counts)[:-1])
    return [Places(edges_of(part, *((1, 1) if part.dtype.kind == "f" else size))) for part, size in zip(parts, sizes, strict=True)]


def codes_of(codec, num_classes, probs, places):
    """Return the codes of images, from the probabilities of the crops of each, and where these are."""
    quantiser = label_quantiser(codec, num_classes)
    images = zip(probs, places, strict=True)
    return quantiser.concatenate([quantiser.quantise({"probs": part}, len(part), place) for part, place in images])


def content_of(layout, images):
    return b"".join(column.data for column in layout.pack(images))


def same_codes(mine, theirs, values_width):
    if isinstance(theirs, FieldCodes):
        for name, array in theirs._asdict().items():
            np.testing.assert_array_equal(getattr(mine, name), array, name)
        return
    if isinstance(mine, tuple) and not isinstance(mine, SparseCodes):
        for image, other in zip(mine, theirs, strict=True):
            for found, wanted in zip(image, other, strict=True):
                np.testing.assert_array_equal(found, wanted)
        return
    if not isinstance(mine, SparseCodes):
        np.testing.assert_array_equal(mine, theirs)
        return
    np.testing.assert_array_equal(mine.indices, theirs.indices)
    if mine.values is not None:
        kept = mine.indices >= 0
        np.testing.assert_array_equal((mine.values - theirs.values)[kept] % values_width, 0)
    if mine.remainders is not None:
        np.testing.assert_array_equal(mine.remainders, theirs.remainders)
    if isinstance(theirs.tails, FullTailCodes):
        np.testing.assert_array_equal(mine.tails.codes, theirs.tails.codes)
        np.testing.assert_array_equal(mine.tails.main_class, theirs.tails.main_class)
    elif theirs.tails is not None:
        listed = theirs.tails.classes >= 0
        np.testing.assert_array_equal(mine.tails.classes, theirs.tails.classes)
        np.testing.assert_array_equal(mine.tails.levels[listed], theirs.tails.levels[listed])
        np.testing.assert_array_equal(mine.tails.floor, theirs.tails.floor)
        np.testing.assert_array_equal(mine.tail_of, theirs.tail_of)
