"""The specification against the code: tables, limits, errors, and the worked hex dump."""

import re
from pathlib import Path

import minimal_reader
import numpy as np
import pytest
from blocks_by_hand import FIELD as BLOCK_OF_FIELDS
from dissect import Pieces
from vectors.valid import FOLDER

from softlabel_codec import AllViews, CropSampler, Padding, SoftLabelReader, codec, errors
from softlabel_codec.block.crops import CROP_MODES
from softlabel_codec.block.layout import Layout
from softlabel_codec.checks import limits
from softlabel_codec.codec import Codec
from softlabel_codec.container import framing as frame
from softlabel_codec.padding import PADDING_MODES
from softlabel_codec.quantise.field import NUM_FEATURES
from softlabel_codec.views import sampler_of

SPEC = Path(__file__).parents[1] / "spec"
CONTAINER = (SPEC / "container-v1.md").read_text()
SPARSE = (SPEC / "sparse-v1.md").read_text()
FIELD = (SPEC / "field-v1.md").read_text()
DENSE = (SPEC / "dense-v1.md").read_text()
TYPES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i16": "h"}


def table(text: str, *columns: str) -> list[dict[str, str]]:
    """Return the rows of the first table with these columns."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        names = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and set(columns) <= set(names):
            rows = []
            for row in lines[number + 2 :]:
                if not row.startswith("|"):
                    return rows
                rows.append(dict(zip(names, (cell.strip().strip("`") for cell in row.strip("|").split("|")), strict=True)))
            return rows
    raise AssertionError(f"no table with columns {columns}")


def section(title: str) -> str:
    """Return the text from a heading to the next of the same or a higher level."""
    start = CONTAINER.index(title)
    level = title.split(maxsplit=1)[0]
    end = re.search(rf"\n#{{1,{len(level)}}} ", CONTAINER[start + 1 :])
    return CONTAINER[start : start + 1 + end.start() if end else None]


@pytest.mark.parametrize(
    ("title", "structure"),
    [("## 3. Header", frame.HEADER), ("### 5.1 Frame of a block", frame.BLOCK_HEAD), ("## 10. Trailer", frame.TRAILER)],
)
def test_structures_are_laid_out_as_their_tables_say(title, structure):
    codes, offset = "", 0
    for row in table(section(title), "offset", "size", "type", "field"):
        if row["type"] == "zstd":
            continue
        assert int(row["offset"]) == offset, row
        offset += int(row["size"])
        codes += TYPES.get(row["type"], f"{row['size']}s")
    assert (codes, offset) == (structure.format.lstrip("<"), structure.size)


def test_fields_of_blocks_are_those_of_the_tables():
    crop_fields = [(row["field"], TYPES[row["type"]]) for row in table(section("### 5.3 Crops"), "type", "field", "meaning")]

    def wanted(text):
        parsed = Codec.parse(text)
        rows = table(DENSE if parsed.family == "dense" else SPARSE, "type", "field", "present", "meaning")
        label_fields = [(row["field"], TYPES[row["type"]], row["present"]) for row in rows]
        present = {
            "always": True,
            "if the codec has t or gain": parsed.kept_classes is None,
            "if the codec has tail=N": isinstance(parsed.tail, int) and parsed.tail > 0,
            "if values are log8": parsed.values == "log8",
        }
        labels = [(name, code) for name, code, when in label_fields if present[when.replace("`", "")]]
        return [("num_images", "H"), *crop_fields, *labels]

    for text in (
        "hard",
        "smoothing",
        "marginal_smoothing:k=5,values=f16",
        "marginal_smoothing:t=0.1",
        "marginal_smoothing:t=0.1,tail=10",
        "marginal_smoothing:t=0.1,tail=all",
        "marginal_smoothing:gain=0.1,tail=10",
        "marginal_renorm:t=0.1,values=f32",
        "dense:values=f16",
        "dense:values=log8",
    ):
        fields = Layout(Codec.parse(text), 10).fields
        assert list(zip(fields.names, fields.codes, strict=True)) == wanted(text)
    derived = [(row["derived field"], TYPES[row["type"]]) for row in table(section("### 5.3 Crops"), "type", "derived field", "meaning")]
    fields = Layout(Codec.parse("dense"), 10, "derived", CropSampler()).fields
    assert list(zip(fields.names, fields.codes, strict=True)) == [("num_images", "H"), *derived]
    assert Layout(Codec.parse("dense"), 10).fields.names == ("num_images", *(name for name, _ in crop_fields))
    of_field = [(row["field"], TYPES[row["type"]]) for row in table(FIELD, "type", "field", "meaning")]
    fields = Layout(Codec.parse("field"), 10).fields
    assert list(zip(fields.names, fields.codes, strict=True)) == [("num_images", "H"), *crop_fields, *of_field]


def test_columns_of_fields_are_those_of_the_table():
    columns = {"fitted": "fit", "unseen": "fit"}
    stated = [columns.get(row["column"], row["column"]) for row in table(FIELD, "column", "type", "count", "meaning")]
    packed = list(dict.fromkeys(column.name for column in BLOCK_OF_FIELDS.layout.pack(BLOCK_OF_FIELDS.images)))
    assert packed[-len(set(stated)) - 1 :] == [*dict.fromkeys(stated), "keys"]


def test_limits():
    stated = {row["what"]: row["limit"] for row in table(section("## 13. Limits"), "what", "limit")}
    assert stated == {
        "classes C": f"{limits.MIN_CLASSES} to {limits.MAX_CLASSES}",
        "kept classes of a crop": f"1 to min(C, {limits.MAX_KEPT_CLASSES}); of a field 1 to min(C - 1, {limits.MAX_KEPT_CLASSES})",
        "crops of an image": f"1 to {limits.MAX_CROPS_PER_IMAGE}",
        "images of a block": f"1 to {limits.MAX_IMAGES_PER_BLOCK}",
        "crops of a block": f"1 to {limits.MAX_CROPS_PER_BLOCK}",
        "table of kept classes of a block": "R times the most classes that one of its crops keeps: "
        f"{limits.MAX_TABLE_ENTRIES}, or the number of its entries if that is larger",
        "table of listed classes of a block": "n times the most classes that one of its tails lists "
        f"(C with `tail=all`): {limits.MAX_TABLE_ENTRIES}",
        "tables of the fields of a block": f"{NUM_FEATURES + 1} n, or R if that is larger, "
        f"times the most classes that one of its fields lists: {limits.MAX_TABLE_ENTRIES}",
        "numbers of a block of `dense` labels with `log8": f"R * C: {limits.MAX_DENSE_NUMBERS}",
        "images of a file": f"{limits.MAX_IMAGES}",
        "height and width of an image": f"1 to {limits.MAX_IMAGE_SIDE} pixels (0: unknown, section 5.3)",
        "height and width of a padded image": f"{limits.MAX_IMAGE_SIDE} pixels",
        "padding of an image": f"{limits.MAX_PADDING} pixels on each side",
        "key": f"1 to {limits.MAX_KEY_BYTES} bytes",
        "metadata": f"{limits.MAX_METADATA_BYTES} bytes",
        "summary": f"{limits.MAX_SUMMARY_BYTES} bytes",
        "payload of a block": f"{limits.MAX_PAYLOAD_BYTES} bytes",
        "content of a block": f"{limits.MAX_CONTENT_BYTES} bytes, and {2**22} + 1024 * payload_length",
        "nesting of msgpack": f"{limits.MAX_MSGPACK_DEPTH}",
    }
    assert limits.max_content_bytes(10) == 2**22 + 10240
    assert limits.max_content_bytes(2**30) == limits.MAX_CONTENT_BYTES


def test_codec_strings():
    names = table(section("## 11. Codec strings"), "name", "family")
    assert [(row["name"], row["family"]) for row in names] == [(name, strategy.family) for name, strategy in codec.STRATEGIES.items()]
    options = {row["option"]: row for row in table(section("## 11. Codec strings"), "option", "of", "values", "default")}
    assert list(options) == ["k", "t", "gain", "values", "step", "tail", "mean", "content", "cost"]
    assert re.findall(r"`(\w+)`", "`" + options["mean"]["values"]) == list(codec.MEANS)
    assert options["t"]["values"].startswith("float, 2^-15 to 1:")
    assert codec.MIN_THRESHOLD == 2.0**-15
    steps = options["step"]["values"]
    assert steps.startswith("float, {:g} to {:g}:".format(*codec.STEPS["sparse"]))
    assert f"; to {codec.STEPS['dense'][1]:g} for `dense`" in steps
    assert "of `field` {:g} to {:g}:".format(*codec.STEPS["field"]) in steps
    defaults = [Codec.parse(text).step for text in ("smoothing", "marginal_smoothing:k=1,tail=1", "dense:values=log8", "field")]
    assert options["step"]["default"] == "{:g}; {:g} with `tail`; {:g} for `dense`; {:g} for `field".format(*defaults)
    assert options["cost"]["values"].startswith(f"float, {codec.MIN_COST:.7f} to {codec.MAX_COST:g}:")
    assert options["cost"]["default"] == f"{Codec.parse('field').cost:g}"
    assert options["gain"]["values"].startswith(f"float, 2^-15 to {codec.MAX_GAIN:g}:")
    assert codec.MIN_GAIN == 2.0**-15
    assert (
        re.findall(r"`(\w+)`", options["content"]["values"] + "`") == list(codec.CONTENTS) or options["content"]["values"].count("`") >= 4
    )
    for family, values in codec.VALUES.items():
        if values == ("none",):
            continue
        assert f"`{values[0]}` ({family})" in options["values"]["default"] or f"{values[0]}` ({family})" in options["values"]["default"]


def test_crop_modes():
    row = next(row for row in table(section("## 4. Metadata"), "key", "type", "meaning") if row["key"] == "crops")
    assert all(mode in row["meaning"] for mode in CROP_MODES)


def test_padding():
    rows = {row["padding key"]: row for row in table(section("### 4.2 Padding"), "padding key", "type", "meaning")}
    assert set(Padding(1).describe()) == set(rows)
    assert re.findall(r"`(\w+)`", "`" + rows["mode"]["meaning"]) == list(PADDING_MODES)
    assert rows["pixels"]["type"] == f"integer, 1 to {limits.MAX_PADDING}"
    (bit,) = table(section("## 12. Versions and features"), "incompatible bit", "set if")
    assert 1 << int(bit["incompatible bit"]) == frame.PADDING_FEATURE


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("pixels", [1, 4, 11])
def test_padded_pixels_are_those_of_the_formulas(mode, pixels):
    image = np.random.default_rng(0).integers(0, 256, (5, 1, 3), dtype=np.uint8)
    fill = (1, 2, 3) if mode == "constant" else 0
    padded = Padding(pixels, mode, fill).pad(image)
    assert padded.shape == (5 + 2 * pixels, 1 + 2 * pixels, 3)
    assert padded.tolist() == minimal_reader.pad(image.tolist(), Padding(pixels, mode, fill).describe())
    if fill == 0:
        np.testing.assert_array_equal(padded, np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode=mode))


def test_crop_samplers():
    rows = table((SPEC / "crop-sampler-v1.md").read_text(), "sampler", "crops", "sections")
    samplers = [CropSampler(), AllViews(2, 3, False)]
    assert [row["sampler"] for row in rows] == [sampler.describe()["name"] for sampler in samplers]
    assert [sampler_of(sampler.describe()) for sampler in samplers] == samplers


def test_errors_are_those_of_the_package():
    stated = {row["error"] for row in table(section("## 14. Errors"), "condition", "error")}
    assert stated == {error.__name__ for error in errors.FormatError.__subclasses__()}
    for name in re.findall(r"\b(\w+Error)\b", CONTAINER + SPARSE + FIELD):
        assert hasattr(errors, name), name


def test_constants():
    assert bytes.fromhex("89 53 4C 43 0D 0A 1A 0A") == frame.MAGIC
    assert "`89 53 4C 43 0D 0A 1A 0A`" in CONTAINER
    assert "`53 4C 42 4B` (`SLBK`)" in CONTAINER
    assert frame.MARKER == b"SLBK"
    assert f"ceil(N / {frame.KEYS_PER_PAGE})" in CONTAINER
    assert f"ceil(N / {frame.ORDER_PER_PAGE})" in CONTAINER


def test_the_hex_dump_is_that_of_the_smallest_file():
    data = (FOLDER / "smallest.slc").read_bytes()
    text = CONTAINER.split("<!-- hexdump")[1].split("```")[1]
    rows = [re.match(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} )+)", line) for line in text.strip().splitlines()]
    found = b"".join(bytes.fromhex(row.group(2)) for row in rows)
    assert found == data
    offsets = [int(row.group(1), 16) for row in rows]
    assert offsets == np.cumsum([0, *(len(bytes.fromhex(row.group(2))) for row in rows[:-1])]).tolist()


def test_the_block_decoded_by_hand_is_that_of_its_vector():
    rows = table(CONTAINER.split("<!-- content of ")[1], "bytes", "field", "meaning")
    written = b"".join(bytes.fromhex(row["bytes"].replace("`", "")) for row in rows)
    assert written == Pieces.of(FOLDER / "block-by-hand.slc").content()
    with SoftLabelReader(FOLDER / "block-by-hand.slc") as reader:
        first, second = reader
    assert [*first.crops.tolist(), *second.crops.tolist()] == [[2, 3, 4, 5], [0, 0, 10, 20], [1, 1, 2, 3]]
    assert (first.flips.tolist(), second.flips.tolist()) == ([True, False], [True])
    assert [*first.labels.indices.tolist(), *second.labels.indices.tolist()] == [[7, 299, 0], [0, 299, 7], [5, 1, 299]]
    assert [round(float(value), 3) for value in (*first.labels.values[0], first.labels.remainder[0])] == [0.472, 0.212, 0.174, 0.142]


def test_no_sentence_defers_to_the_code():
    for page in SPEC.glob("*.md"):
        assert not re.search(r"see the (code|source|implementation)|softlabel_codec/", page.read_text()), page
