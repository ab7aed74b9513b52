"""The fuzz targets: each takes any bytes, and returns unless something is wrong with the package.

Bad bytes may raise a FormatError and nothing else; whatever else comes out is a crash, as is an input that takes more than a second.
Nothing here needs atheris.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import minimal_reader
import numpy as np

from fuzz.agreement import MAX_SLOW_BYTES, comparable_metadata, require, same_image, same_labels, same_verdict
from fuzz.bases import BASES, layout_of
from fuzz.limits import within_a_second
from fuzz.scratch import scratch_folder
from fuzz.script import CHANGES, INDEX_CHANGES, built
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.block.layout import BlockImages, CropRows, Layout
from softlabel_codec.block.one_image import FewCropsReader
from softlabel_codec.codec import Codec
from softlabel_codec.container.framing import Header
from softlabel_codec.container.metadata import Description
from softlabel_codec.container.recovery import recover
from softlabel_codec.container.zstd_frames import store_columns
from softlabel_codec.errors import ArgumentError, CorruptError, FormatError, StateError
from softlabel_codec.labels import Labels, SparseLabels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.report import inspect, stats, verify
from softlabel_codec.sampler import crop_stream

MAX_DENSE_CLASSES = 512
MAX_SLOTS = 4


def header(data: bytes) -> None:
    """The beginning of a file, as it is and with the checksum of the header made right."""
    for beginning in (data, data[:28] + zlib.crc32(data[:28]).to_bytes(4, "little") + data[32:]):
        mine = _refusal(lambda: Header.unpack(beginning))  # noqa: B023  called at once
        theirs = _minimal_refusal(lambda: minimal_reader.read_header(beginning))  # noqa: B023
        require(mine == theirs, f"header: {mine} and {theirs}")


def metadata(data: bytes) -> None:
    """A metadata section: a msgpack map and what it says of the labels."""
    with within_a_second("metadata"):
        try:
            found = Description.unpack(data)
        except FormatError as error:
            mine, found = f"{type(error).__name__}: {error}", None
        else:
            mine = None
            require(Description.unpack(found.pack()) == found, "metadata do not come back as they went in")
            label_quantiser(found.codec, found.num_classes)
            str(found.layout)
    theirs = _minimal_refusal(lambda: minimal_reader.read_metadata(Header(len(data), zlib.crc32(data)).pack() + data)) if data else "empty"
    if comparable_metadata(data):
        same_verdict(mine, theirs, "metadata")


def codec_string(data: bytes) -> None:
    """A codec string: what can be parsed prints as what is parsed to the same, and as the specification says."""
    with within_a_second("codec string"):
        try:
            codec = Codec.parse(data.decode("utf-8", "surrogateescape"))
        except ArgumentError:
            return
        text = str(codec)
        require(Codec.parse(text) == codec and str(Codec.parse(text)) == text, f"{text!r} is not parsed to what it prints")
    theirs = minimal_reader.parse_codec(text, 65535 if codec.full_tail else 2**31)
    values = None if codec.values == "none" else codec.values
    kept = codec.kept_classes, codec.t, codec.gain
    require((theirs.name, theirs.k, theirs.t, theirs.gain) == (codec.name, *kept), f"{text!r}: what is kept")
    require((theirs.values, theirs.tail or 0, theirs.content) == (values, codec.tail, codec.content), f"{text!r}: how it is stored")
    require((codec.values != "log8" and codec.family != "field") or theirs.step == codec.step, f"{text!r}: step")
    require(theirs.cost == codec.cost, f"{text!r}: cost")


def block(data: bytes) -> None:
    """The content of a block, read in all ways that there are: the first byte says which layout it is for."""
    number, content = data[0] % len(BASES) if data else 0, data[1:]
    layout = layout_of(number)
    with within_a_second("block"):
        try:
            whole = layout.unpack_all(content)
            labels: Labels | None = label_quantiser(layout.codec, layout.num_classes).dequantise(whole.codes, layout.codec.policy)
        except FormatError as error:
            whole, labels, mine = None, None, f"{type(error).__name__}: {error}"
            require(isinstance(error, CorruptError), f"from the content of a block: {mine}")
        else:
            mine = None
            _use(labels)
        for slot in range(min(int.from_bytes(content[:2], "little"), MAX_SLOTS)):
            _read_slot(layout, content, slot, whole, labels)
    if len(content) <= MAX_SLOW_BYTES:
        _compare_block(layout, content, whole, labels, mine)


def index_and_trailer(data: bytes) -> None:
    """A file with changes to index, trailer, keys and summary, all checksums right."""
    _read_file(built(data, INDEX_CHANGES))


def whole_file(data: bytes) -> None:
    """A file with changes anywhere, all checksums right, through everything that reads files."""
    file = built(data, CHANGES)
    path = _read_file(file)
    with within_a_second("recover"):
        recovered = path.with_name("recovered.slc")
        try:
            recover(path, recovered, overwrite=True)
        except FormatError:
            return
        require(verify(recovered, deep=True).ok, "what was recovered is not sound")
    with within_a_second("reports"):
        _refusal(lambda: inspect(path))
        with suppress(FormatError, StateError):
            stats(path)


def fkd(data: bytes) -> None:
    """A label file of FKD: the first byte says which type of labels is expected, and how the rest is wrapped."""
    from fuzz.fkd_files import read  # torch takes seconds to import

    read(data)


def imports(data: bytes) -> None:
    """A source of labels of another format: the first bytes say which, the rest what is changed in it."""
    from fuzz.import_files import read  # pyarrow takes long to import

    read(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function for function in (header, metadata, codec_string, block, index_and_trailer, whole_file, fkd, imports)
}


def _refusal(action: Callable[[], object]) -> str | None:
    """Return the name of the FormatError that an action raises, or None."""
    try:
        action()
    except FormatError as error:
        return type(error).__name__
    return None


def _minimal_refusal(action: Callable[[], object]) -> str | None:
    """Return the same of the minimal reader."""
    try:
        action()
    except minimal_reader.FormatError as error:
        return type(error).__name__
    return None


def _use(labels: Labels) -> None:
    """Look at labels as programs do."""
    if labels.num_classes <= MAX_DENSE_CLASSES and getattr(labels, "content", "") != "features" and len(labels) <= 2**12:
        targets = labels.dense()
        require(targets.shape == (len(labels), labels.num_classes), "shape of the targets")
        if isinstance(labels, SparseLabels):
            require(np.isfinite(targets).all() and (targets >= 0).all(), "targets are not finite")
            distinct = all(len(set(row)) == len(row) for row in (row[row >= 0].tolist() for row in labels.indices))
            require(labels.policy != "renorm" or not distinct or np.allclose(targets.sum(axis=1), 1, atol=1e-3), "targets do not add up")
    require(len(labels.top1) == len(labels) and len(labels[:1]) == min(1, len(labels)), "number of labels")


Chosen = tuple[Any, Any, tuple[int, int], Labels]


def _read_slot(layout: Layout, content: bytes, slot: int, whole: BlockImages | None, labels: Labels | None) -> None:
    """Read an image of a block by numpy and by the short way. Where the whole block is sound, both find the same in it."""
    head = layout.fields.struct.size
    count = int.from_bytes(content[head + 2 * slot : head + 2 * slot + 2], "little") + 1
    stream = crop_stream(whole.keys[slot]) if whole else 5
    for crops in ([0], [count - 1, 0]):
        found = [
            way for way in (_by_numpy(layout, content, slot, crops, stream), _by_short_way(layout, content, slot, crops, stream)) if way
        ]
        if whole is not None and labels is not None:
            require(len(found) == 1 + FewCropsReader.serves(layout), "a sound block is refused")
            rows = int(whole.num_crops[:slot].sum()) + np.array(crops)
            found.append((whole.crops[rows], whole.flips[rows], tuple(whole.sizes[slot].tolist()), labels[rows]))
            if layout.family.of_places:
                found.append(_at_places(layout, content, slot, found[0]))
        for one, other in pairwise(found):
            require(np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]) and one[2] == other[2], "crops of two ways")
            same_labels(one[3], other[3], "two ways")


def _by_numpy(layout: Layout, content: bytes, slot: int, crops: list[int], stream: int) -> Chosen | None:
    """Return chosen crops as `read_batch` finds them, here as the second of two blocks."""
    twice, numbers = [content, content], np.array([crops, crops])
    try:
        rows, found = layout.unpack(twice, np.array([0, 1]), np.array([slot, slot]), numbers, np.array([stream, stream]))
        labels = label_quantiser(layout.codec, layout.num_classes).dequantise(rows.codes, layout.codec.policy)
    except CorruptError:
        return None
    first, second = slice(0, len(crops)), slice(len(crops), None)
    same_labels(labels[first], labels[second], "the same block twice")
    rows = CropRows(rows.crops[second], rows.flips[second], None)
    return rows.crops, rows.flips, tuple(found.image_sizes[1].tolist()), labels[second]


def _at_places(layout: Layout, content: bytes, slot: int, known: Chosen) -> Chosen:
    """Return the same crops as a caller describes them."""
    crops, flips, size, _ = known
    codes, rows = layout.unpack_at([content], np.zeros(1, np.int64), np.array([slot]), len(crops))
    codes = codes.at(layout.edges(crops, rows.height, rows.width), rows.owner)
    return crops, flips, size, label_quantiser(layout.codec, layout.num_classes).dequantise(codes, layout.codec.policy)


def _by_short_way(layout: Layout, content: bytes, slot: int, crops: list[int], stream: int) -> Chosen | None:
    if not FewCropsReader.serves(layout):
        return None
    try:
        return FewCropsReader(layout, layout.codec.policy).read(content, slot, crops, stream)
    except CorruptError:
        return None


def _compare_block(layout: Layout, content: bytes, whole: BlockImages | None, labels: Labels | None, mine: str | None) -> None:
    values: dict[str, Any] = {"num_classes": layout.num_classes, "codec": str(layout.codec), "crops": layout.crops}
    if layout.sampler is not None:
        values["crop_sampler"] = layout.sampler.describe()
    if layout.padding.pixels:
        values["padding"] = layout.padding.describe()
    images: list[minimal_reader.Image] = []
    theirs = _minimal_refusal(lambda: images.extend(minimal_reader.read_block(store_columns([content]), values)))
    same_verdict(mine, theirs, "block")
    if whole is None or labels is None:
        return
    require([image.key for image in images] == whole.keys, "keys of a block")
    start = 0
    for image, size, count in zip(images, whole.sizes.tolist(), whole.num_crops.tolist(), strict=True):
        rows = slice(start, start + count)
        same_image(image, size, whole.crops[rows], whole.flips[rows], labels[rows], layout.codec)
        start += count


def _read_file(file: bytes) -> Path:
    """Read a file in every way, compare these and the minimal reader, and return where it is."""
    path = scratch_folder() / "file.slc"
    path.write_bytes(file)
    with within_a_second("verify"):
        verify(path)
        report = verify(path, deep=True)
    mine = None if report.ok else str(report.problems[0])
    with within_a_second("read"):
        try:
            with SoftLabelReader(path) as reader:
                images = _everything(reader, report.ok)
                found = reader if images is not None else None
        except FormatError:
            found, images = None, None
    require(images is not None or not report.ok, "a verified file cannot be read")
    _compare_file(file, mine, found, images)
    return path


def _everything(reader: SoftLabelReader, sound: bool) -> list[Any] | None:
    """Return all images of a file, read one by one, after trying all other ways; None if something is damaged."""
    images = []
    for number in range(len(reader)):
        try:
            image = reader.read(number)
            _use(image.labels)
            last = min(image.num_crops, int(reader.num_crops[number])) - 1  # which differ if the index is wrong
            few = reader.read(number, [last, 0])
        except FormatError:
            require(not sound, "an image of a verified file cannot be read")
            continue
        rows = np.array([last, 0])
        require(np.array_equal(few.crops, image.crops[rows]) and np.array_equal(few.flips, image.flips[rows]), "a few crops")
        same_labels(few.labels, image.labels[rows], "a few crops of an image")
        if reader.any_crop:
            beyond = reader.read(number, [2**32 - 1, 0])
            _use(beyond.labels)
            same_labels(beyond.labels[1:], image.labels[:1], "a crop beside one that is not stored")
        images.append(image)
    try:
        keys = list(reader.keys)
        require(not sound or [reader.keys.find(key) for key in keys] == list(range(len(keys))), "keys are not found")
        require("no such key" not in reader, "a key that is not there is found")
        batch = list(reader.read_batch(range(len(reader)))) if len(reader) else []
    except FormatError:
        require(not sound, "a verified file cannot be read at once")
        return None
    if len(images) < len(batch):  # crops that do not come from the sampler are noticed in the first block that is read only
        return None
    for one, other in zip(images, batch, strict=True):
        require(np.array_equal(one.crops, other.crops) and one.image_size == other.image_size, "images one by one and at once")
        same_labels(one.labels, other.labels, "images one by one and at once")
    return images


def _compare_file(file: bytes, mine: str | None, reader: SoftLabelReader | None, images: list[Any] | None) -> None:
    if len(file) > MAX_SLOW_BYTES or not comparable_metadata(file[32 : 32 + int.from_bytes(file[20:24], "little")]):
        return
    theirs: list[minimal_reader.File] = []
    refusal = _minimal_refusal(lambda: theirs.append(minimal_reader.read(file)))
    same_verdict(mine, refusal, "file")
    if refusal or reader is None or images is None:
        return
    require(theirs[0].metadata["metadata"] == reader.metadata and theirs[0].summary == reader.summary, "metadata or summary")
    for image, other in zip(images, theirs[0].images, strict=True):
        same_image(other, image.image_size, image.crops, image.flips, image.labels, reader.parsed_codec)
