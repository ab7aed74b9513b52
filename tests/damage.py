"""Damage to small files, exhaustively: what a reader and a verifier make of it. Used by tests and by the report on reliability."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
from dissect import Pieces

from softlabel_codec import (
    CorruptError,
    FormatError,
    LimitError,
    NewerVersionError,
    NotAContainerError,
    SoftLabelReader,
    SoftLabelWriter,
    TruncatedError,
    UnknownFeatureError,
    recover,
    writer,
)
from softlabel_codec.container.framing import BLOCK_HEAD, HEADER, MAGIC, TRAILER
from softlabel_codec.report import verify
from softlabel_codec.sampler import CropSampler

CORPUS = {
    "hard": ("hard", 3, "pixels"),
    "log8": ("marginal_smoothing:k=3", 8, "pixels"),
    "threshold-f16": ("marginal_renorm:t=0.1,values=f16", 8, "pixels"),
    "tail-derived": ("marginal_smoothing:k=2,tail=3", 8, "derived"),
    "dense-fractions": ("dense:values=f16", 4, "fractions:f16"),
    "field": ("field:cost=0.0001", 8, "pixels"),
}
KEYS = ("b/1.png", "a/2.png", "a/é.png")  # not in order, so that there is an order page

Truth = dict[str, object]


@dataclass(frozen=True)
class Part:
    """A run of bytes of a file: what damage in it must be called, and how the message must name the place."""

    name: str
    start: int
    end: int
    errors: tuple[type[FormatError], ...]
    place: str


@dataclass
class DamageReport:
    """What was tried, and what came of it; every case that is not counted raised an AssertionError.

    Attributes
    ----------
    files, total_bytes : int
        Files of the corpus, and their bytes.
    damaged : int
        Damaged files that were tried.
    found_by_verify : int
        Those that `verify` found, naming the place.
    refused : int
        Those that a reader refused while reading everything.
    unharmed : int
        The others, in which a reader found exactly what was written.
    images_beside : int
        Images of sound blocks that were read, unharmed, beside a damaged block.
    recovered : int
        Those of which `recover` brought back every image of a block that is not itself damaged, whatever else is.
    """

    files: int = 0
    total_bytes: int = 0
    damaged: int = 0
    found_by_verify: int = 0
    refused: int = 0
    unharmed: int = 0
    images_beside: int = 0
    recovered: int = 0
    by_error: dict[str, int] = field(default_factory=dict)


def write_corpus(folder: Path) -> list[Path]:
    """Write the small files, each of three images in three blocks."""
    paths = []
    for name, (codec, num_classes, crops) in CORPUS.items():
        rng = np.random.default_rng(len(name))
        sampler = CropSampler(seed=5)
        path = folder / f"{name}.slc"
        with (
            patch.object(writer, "TARGET_BYTES_PER_BLOCK", 1),
            SoftLabelWriter(path, num_classes, codec, crops=crops, sampler=sampler if crops == "derived" else None) as out,
        ):
            for key, count in zip(KEYS, (2, 1, 3), strict=True):
                geometry, flips = sampler.sample(key, (20, 30), range(count))
                if crops == "fractions:f16":
                    geometry = (geometry / np.array([20, 30, 20, 30])).astype(np.float16)
                probs = rng.dirichlet([0.5] * num_classes, count).astype(np.float32)
                size = None if crops.startswith("fractions") else (20, 30)
                out.add(key, image_size=size, crops=geometry, flips=flips, probs=probs)
        paths.append(path)
    return paths


def parts_of(path: Path) -> list[Part]:
    """Return the parts of a sound file, in order, without gaps."""
    corrupt = (CorruptError,)
    with SoftLabelReader(path) as reader:
        trailer, starts, after_header = (
            reader.container.trailer,
            reader.container.index.starts.tolist(),
            reader.container.beginning.blocks_offset,
        )
    parts = [
        Part("magic", 0, len(MAGIC), (NotAContainerError,), "begin with"),
        Part("major", len(MAGIC), len(MAGIC) + 2, (NewerVersionError,), "version"),
        Part("header", len(MAGIC) + 2, HEADER.size, corrupt, "header"),
        Part("metadata", HEADER.size, after_header, corrupt, "metadata"),
    ]
    for number, (start, end) in enumerate(pairwise(starts)):
        place = f"block {number} at byte {start}"
        parts += [
            Part(f"marker of block {number}", start, start + 4, corrupt, place),
            Part(f"number of block {number}", start + 4, start + 8, corrupt, place),
            Part(f"length of block {number}", start + 8, start + 12, (CorruptError, LimitError), place),
            Part(f"checksum of block {number}", start + 12, start + BLOCK_HEAD.size, corrupt, place),
            Part(f"payload of block {number}", start + BLOCK_HEAD.size, end, corrupt, place),
        ]
    end = trailer.trailer_offset
    return [
        *parts,
        Part("keys", trailer.keys_offset, trailer.summary_offset, corrupt, "keys at byte"),
        Part("summary", trailer.summary_offset, trailer.index_offset, corrupt, "summary at byte"),
        Part("index", trailer.index_offset, trailer.copy_offset, corrupt, "index at byte"),
        Part("copy", trailer.copy_offset, end, (CorruptError, LimitError), "copy at byte"),
        Part("trailer", end, end + TRAILER.size - len(MAGIC), corrupt, "trailer"),
        Part("magic at the end", end + TRAILER.size - len(MAGIC), end + TRAILER.size, (TruncatedError,), "trailer"),
    ]


def image_contents(reader: SoftLabelReader, number: int) -> list[object]:
    """Return all that is said of an image, read in both ways."""
    whole, few = reader.read(number), reader.read(number, [0])
    arrays = [whole.crops, whole.flips, whole.labels.dense(), few.crops, few.flips, few.labels.dense()]
    return [whole.image_size, *(array.tolist() for array in arrays)]


def everything(path: Path) -> Truth:
    """Read all that a reader can find in a file."""
    with SoftLabelReader(path) as reader:
        batch = reader.read_batch(range(len(reader)))
        return {
            "keys": list(reader.keys),
            "found": [reader.keys.find(key) for key in KEYS],
            "metadata": (
                reader.metadata,
                reader.codec,
                reader.num_classes,
                reader.crops,
                reader.container.description.written_by,
                reader.summary,
            ),
            "crops": reader.num_crops.tolist(),
            "images": [image_contents(reader, number) for number in range(len(reader))],
            "batch": [array.tolist() for array in (batch.crops, batch.flips, batch.labels.dense(), batch.image_sizes, batch.num_crops)],
        }


class _Judge:
    """Tries damaged files of one sound file, and counts."""

    def __init__(self, path: Path, folder: Path, report: DamageReport) -> None:
        self.data, self.truth, self.report = path.read_bytes(), everything(path), report
        self.file = folder / "damaged.slc"
        report.files += 1
        report.total_bytes += len(self.data)

    def try_damage(self, damaged: bytes, errors: Sequence[type[FormatError]], place: str, what: str) -> None:
        """Check that a damaged file is refused with one of these errors, which names the place, or read as it was; and found by verify."""
        assert damaged != self.data
        self.file.write_bytes(damaged)
        self.report.damaged += 1
        refusal = self._refusal(what)
        if refusal is None:
            self.report.unharmed += 1
        else:
            assert type(refusal) in errors, f"{what}: {refusal!r}"
            assert place in str(refusal), f"{what}: {refusal}"
            self.report.refused += 1
            name = type(refusal).__name__
            self.report.by_error[name] = self.report.by_error.get(name, 0) + 1
        result = verify(self.file, deep=True)
        named = [problem.message for problem in result.problems if place in problem.message or "SHA-256" in problem.message]
        assert not result.ok, f"verify misses {what}"
        assert named, f"{what}: verify does not say where: {result.problems}"
        self.report.found_by_verify += 1

    def _refusal(self, what: str) -> FormatError | None:
        """Return the error with which a reader refuses the file; None if it reads what was written. Anything else is an AssertionError."""
        try:
            found = everything(self.file)
        except FormatError as error:
            return error
        assert found == self.truth, f"{what}: something else was read"
        return None

    def try_others(self, block: int) -> None:
        """Check that the images of all other blocks are read as they were, in the file that was tried last."""
        with SoftLabelReader(self.file, on_corrupt="skip") as reader:
            sound = [number for number in range(len(KEYS)) if number != block]
            assert [image_contents(reader, number) for number in sound] == [self.truth["images"][number] for number in sound]
            assert reader.read_batch(range(len(KEYS))).images.tolist() == sound
            assert reader.damaged_images == [block]
        self.report.images_beside += len(sound)

    def try_recovery(self, block: int | None) -> None:
        """Check that everything of the file that was tried last is recovered but the images of a block."""
        target = self.file.with_name("recovered.slc")
        with patch("os.fsync"):  # which takes longer than everything else, and is not what is tried here
            recover(self.file, target, overwrite=True)
        wanted = [number for number in range(len(KEYS)) if number != block]
        with SoftLabelReader(target) as reader:
            assert list(reader.keys) == [self.truth["keys"][number] for number in wanted]
            assert [image_contents(reader, number) for number in range(len(reader))] == [self.truth["images"][number] for number in wanted]
            assert (reader.metadata, reader.codec, reader.num_classes, reader.crops) == self.truth["metadata"][:4]
        self.report.recovered += 1


def flip_bits(paths: Sequence[Path], folder: Path, bits: Sequence[int] | None = None, every: int = 1) -> DamageReport:
    """Flip every single bit of files, or of each byte one of `bits` in turn; of every so many bytes."""
    report = DamageReport()
    for path in paths:
        judge = _Judge(path, folder, report)
        for part in parts_of(path):
            for position in range(part.start, part.end, every):
                for bit in range(8) if bits is None else [bits[position % len(bits)]]:
                    damaged = bytearray(judge.data)
                    damaged[position] ^= 1 << bit
                    judge.try_damage(bytes(damaged), part.errors, part.place, f"{path.name}: bit {bit} of byte {position} ({part.name})")
                    block = int(part.name.split()[-1]) if " of block " in part.name else None
                    if part.name.startswith("payload") and block is not None:
                        judge.try_others(block)
                    judge.try_recovery(block)
    return report


def truncate(paths: Sequence[Path], folder: Path) -> DamageReport:
    """Cut files off at every length."""
    report = DamageReport()
    for path in paths:
        judge = _Judge(path, folder, report)
        for length in range(len(judge.data)):
            judge.try_damage(judge.data[:length], [TruncatedError], "", f"{path.name}: {length} bytes")
    return report


_ANY = [CorruptError, LimitError, TruncatedError, NotAContainerError, NewerVersionError, UnknownFeatureError]


def splice(paths: Sequence[Path], folder: Path, count: int, seed: int = 0) -> DamageReport:
    """Try `count` random splices of each file: ranges moved, repeated, removed, zeroed, taken from the next file, bytes appended."""
    report = DamageReport()
    rng = random.Random(seed)
    others = [path.read_bytes() for path in paths]
    for path, other in zip(paths, others[1:] + others[:1], strict=True):
        judge = _Judge(path, folder, report)
        done = 0
        while done < count:
            kind = rng.choice(list(_SPLICES))
            damaged = _SPLICES[kind](rng, judge.data, other)
            if damaged != judge.data:
                judge.try_damage(damaged, _ANY, "", f"{path.name}: {kind}, {done} of seed {seed}")
                done += 1
    return report


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice([1, 2, 4, 8, 16, 64, 256]))


def _move(rng: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    rest = data[:start] + data[end:]
    place = rng.randrange(len(rest) + 1)
    return rest[:place] + data[start:end] + rest[place:]


def _repeat(rng: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:]


def _remove(rng: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _zero(rng: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def _take(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + other[start:end] + data[end:]


def _graft(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _append(rng: random.Random, data: bytes, _: bytes) -> bytes:
    return data + rng.randbytes(rng.choice([1, 8, TRAILER.size, 1000]))


_SPLICES = {"move": _move, "repeat": _repeat, "remove": _remove, "zero": _zero, "take": _take, "graft": _graft, "append": _append}


def rearrange_blocks(path: Path, other: Path, folder: Path) -> DamageReport:
    """Swap and duplicate the blocks of a file in all ways, and replace each by each of another file, with and without a new index."""
    report = DamageReport()
    judge = _Judge(path, folder, report)
    for what, damaged in _rearranged(path, other):
        judge.try_damage(damaged, _ANY, "", what)
    return report


def _rearranged(path: Path, other: Path) -> Iterator[tuple[str, bytes]]:
    whole, foreign = Pieces.of(path), Pieces.of(other)
    numbers = range(len(whole.payloads))
    for target in numbers:
        for source in numbers:
            if source != target:
                pieces = Pieces.of(path)
                pieces.payloads[target] = whole.payloads[source]
                pieces.heads = {target: {"number": source}}
                yield f"block {target} is a copy of block {source}", pieces.join()
                pieces = Pieces.of(path)
                pieces.payloads[target], pieces.payloads[source] = whole.payloads[source], whole.payloads[target]
                pieces.heads = {target: {"number": source}, source: {"number": target}}
                yield f"blocks {target} and {source} are swapped", pieces.join()
        pieces = Pieces.of(path)
        pieces.payloads[target] = foreign.payloads[target]
        pieces.heads = {target: {"block_crc32": foreign.crc32_of(target)}}
        yield f"block {target} is that of another file", pieces.join()
