"""A file's whole life, in any order: images are added, writers closed and resumed, files recovered, finished, replaced and read."""

import shutil
import tempfile
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from conftest import random_probs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from softlabel_codec import ArgumentError, SoftLabelReader, SoftLabelWriter, StateError, TruncatedError, writer
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.codec import Codec
from softlabel_codec.container.recovery import recover
from softlabel_codec.quantise.places import Places, edges_of
from softlabel_codec.report import verify
from softlabel_codec.sampler import CropSampler

NUM_CLASSES = 9
CODECS = (
    "hard",
    "smoothing:values=f16",
    "marginal_smoothing:k=3",
    "marginal_renorm:t=0.1,values=f32",
    "marginal_smoothing:k=2,tail=4",
    "marginal_smoothing:k=2,tail=all,mean=log",
    "dense:f16",
    "field",
)
CROPS = ("pixels", "derived", "fractions:f32", "fractions:f16")
SAMPLER = CropSampler(seed=11, scale=(0.1, 1.0))
MAX_IMAGES = 40


class Image:
    """What went in for one image, and what must come out."""

    def __init__(self, key, size, crops, flips, labels):
        self.key, self.size, self.crops, self.flips, self.labels = key, size, crops, flips, labels


class Life(RuleBasedStateMachine):
    """Writes one path, and keeps beside it a plain list of what must be in it."""

    @initialize(codec=st.sampled_from(CODECS), crops=st.sampled_from(CROPS), block_bytes=st.sampled_from([1, 60, 400]))
    def begin(self, codec, crops, block_bytes):
        self.codec, self.crops = Codec.parse(codec), crops
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "labels.slc"
        self.small_blocks = patch.object(writer, "TARGET_BYTES_PER_BLOCK", block_bytes)
        self.small_blocks.start()
        self.numbers = count()
        self.writer = None
        self.added = []  # images of the file that is being written, whole blocks or not
        self.finished = None  # images of the finished file

    def teardown(self):
        if hasattr(self, "folder"):
            self.small_blocks.stop()
            if self.writer is not None:
                self.writer.close()
            shutil.rmtree(self.folder)

    def open(self, **options):
        sampler = SAMPLER if self.crops == "derived" else None
        return SoftLabelWriter(self.path, NUM_CLASSES, str(self.codec), {"n": 1}, crops=self.crops, sampler=sampler, **options)

    @property
    def partial(self):
        return self.path.with_name("labels.slc.partial")

    @precondition(lambda self: self.writer is None)
    @rule(resume=st.booleans())
    def start(self, resume):
        """A finished file stays until the new one is finished; of an unfinished one, whole blocks come back: a prefix."""
        if self.finished is not None or self.partial.exists():
            expected = (FileExistsError, "the file exists") if self.finished is not None else (StateError, "an unfinished file is there")
            with pytest.raises(expected[0], match=expected[1]):
                self.open()
        overwrite = self.finished is not None or not resume
        self.writer = self.open(resume=resume, overwrite=overwrite)
        self.added = self.prefix(self.writer.keys)
        assert resume or not self.added

    def prefix(self, keys):
        assert [image.key for image in self.added[: len(keys)]] == list(keys)
        return self.added[: len(keys)]

    @precondition(lambda self: self.writer is not None and len(self.added) < MAX_IMAGES)
    @rule(
        seed=st.integers(0, 2**32 - 1),
        size=st.sampled_from([(1, 1), (48, 64), (5, 300)]),
        num_crops=st.integers(1, 12),
        stem=st.sampled_from(["a", "zz/b", "é", "n01/image"]),
    )
    def add(self, seed, size, num_crops, stem):
        key = f"{stem}{next(self.numbers)}"
        rng = np.random.default_rng(seed)
        crops, flips = SAMPLER.sample(key, size, range(num_crops))
        if self.crops.startswith("fractions"):
            crops = (crops / np.array([*size, *size])).astype("f4" if self.crops.endswith("32") else "f2")
        probs = random_probs(rng, num_crops, NUM_CLASSES)
        geometry = {} if self.crops == "derived" else {"crops": crops, "flips": flips}
        self.writer.add(key, image_size=size, probs=probs, **geometry)
        quantiser = label_quantiser(self.codec, NUM_CLASSES)
        places = Places(edges_of(crops, *((1, 1) if self.crops.startswith("fractions") else size)))
        labels = quantiser.dequantise(quantiser.quantise({"probs": probs}, num_crops, places), self.codec.policy)
        self.added.append(Image(key, size, crops, flips, labels))
        with pytest.raises(ArgumentError, match="was added before"):
            self.writer.add(key, image_size=size, probs=probs, **geometry)

    @precondition(lambda self: self.writer is not None)
    @rule(finish=st.booleans())
    def stop(self, finish):
        with pytest.raises((StateError, FileExistsError), match="another writer|exists"):
            self.open(resume=True)
        if finish:
            self.writer.finish()
            self.finished, self.added = self.added, []
        self.writer.close()
        self.writer = None
        assert finish != self.partial.exists()

    @precondition(lambda self: self.writer is None and self.partial.exists())
    @rule()
    def recover(self):
        """What is recovered is what would be resumed, and the unfinished file stays."""
        with pytest.raises(TruncatedError, match=r"unfinished|ends"):
            SoftLabelReader(self.partial)
        recovered = self.folder / "recovered.slc"
        report = recover(self.partial, recovered, overwrite=True)
        with SoftLabelReader(recovered) as reader:
            images = self.prefix(reader.keys)
            assert report.num_images == len(images)
            self.check(reader, range(len(images)), images)
        assert verify(recovered, deep=True).ok

    @precondition(lambda self: self.finished)
    @rule(data=st.data())
    def read(self, data):
        """By number, key or negative number, in any order, one by one and in batches, all crops or some."""
        order = data.draw(st.lists(st.integers(0, len(self.finished) - 1), min_size=1, max_size=6))
        few = data.draw(st.booleans())
        with SoftLabelReader(self.path) as reader:
            self.check(reader, order, self.finished)
            chosen = [data.draw(st.lists(st.integers(0, len(self.finished[n].flips) - 1), min_size=2, max_size=2)) for n in order]
            batch = list(reader.read_batch([self.finished[n].key for n in order], chosen if few else None))
            for number, rows, found in zip(order, chosen, batch, strict=True):
                same(self.finished[number], found, rows if few else slice(None))
                if few:
                    same(self.finished[number], reader.read(number, rows), rows)

    @precondition(lambda self: self.finished is not None)
    @rule()
    def absent(self):
        with SoftLabelReader(self.path) as reader:
            with pytest.raises(KeyError, match="no image with the key"):
                reader["no such image"]
            with pytest.raises(IndexError, match="image number"):
                reader[len(self.finished)]

    def check(self, reader, order, images):
        assert len(reader) == len(images)
        for number in order:
            image = images[number]
            for name in (number, number - len(images), image.key):
                same(image, reader[name], slice(None))

    @invariant()
    def the_finished_file_is_what_it_was(self):
        if getattr(self, "finished", None) is None:
            return
        assert verify(self.path, deep=True).ok
        with SoftLabelReader(self.path) as reader:
            assert list(reader.keys) == [image.key for image in self.finished]
            assert reader.num_crops.tolist() == [len(image.flips) for image in self.finished]

    @invariant()
    def the_writer_knows_what_it_has(self):
        if getattr(self, "writer", None) is not None:
            assert self.writer.keys == [image.key for image in self.added]
            assert len(self.writer) == len(self.added)


def same(image, found, rows):
    assert found.image_size == image.size
    np.testing.assert_array_equal(found.crops, image.crops[rows])
    np.testing.assert_array_equal(found.flips, image.flips[rows])
    np.testing.assert_array_equal(found.labels.dense(), image.labels[rows].dense())


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
