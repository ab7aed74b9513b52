"""Embeddings of Apple's MobileCLIP-DR, in shards written by the formulas of ml-mobileclip-dr's `gen.py` and `datasetio.py`."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from softlabel_codec import ArgumentError, CorruptError, MismatchError, SoftLabelReader, writer
from softlabel_codec.formats import import_labels

WIDTH, SAMPLES = 12, 3
CROPFLIP = {
    "random_resized_crop": {"size": 224},
    "random_horizontal_flip": {},
    "to_rgb": {"enable": True},
    "to_tensor": {},
    "normalize": {},
}
DEFAULT = {"normalize": {}, "rand_augment": {"enable": True, "p": 1.0}, "random_resized_crop": {"size": 224}, "to_rgb": {}, "to_tensor": {}}


def encoded(ending, value):
    """Return a member as the encoders of WebDataset write it."""
    buffer = io.BytesIO()
    if ending.endswith("json"):
        return json.dumps(value).encode()
    if ending == "npz":
        np.savez_compressed(buffer, **value)
    elif ending == "pth.gz":
        with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
            torch.save(value, file)
    elif ending == "jpg":
        value.save(buffer, format="jpeg")
    else:
        return value.encode()
    return buffer.getvalue()


def write_shard(path, samples):
    with tarfile.open(path, "w") as tar:
        for key, parts in samples:
            for ending, value in parts.items():
                data = value if isinstance(value, bytes) else encoded(ending, value)
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def one_sample(rng, form, published=False, images=True):
    image_emb = rng.normal(size=(SAMPLES, WIDTH)).astype(np.float32)
    embeddings = {"image_emb": image_emb, "text_emb": rng.normal(size=(2, WIDTH)).astype(np.float32)}
    if form == "pth.gz":
        embeddings = {name: torch.tensor(value).to(torch.bfloat16) for name, value in embeddings.items()}
    boxes = [[int(number) for number in (*rng.integers(0, 5, 2), *rng.integers(4, 15, 2))] for _ in range(SAMPLES)]
    flips = [bool(rng.random() < 0.5) for _ in range(SAMPLES)]
    param_aug = [[box, flip] for box, flip in zip(boxes, flips, strict=True)]
    parts = {"url.txt": "https://example.org/a.jpg", "syn.json": {"syn_text": ["a"]}}
    if images:
        parts["jpg"] = Image.new("RGB", (30, 20))
    parts["paug.json"] = {"param_aug": json.dumps(param_aug) if published else param_aug}
    parts[form] = embeddings
    parts["json"] = {"width": 30}
    return parts, (image_emb if form == "npz" else embeddings["image_emb"].float().numpy(), boxes, flips)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("form", ["npz", "pth.gz"])
def test_embeddings_and_crops(tmp_path, rng, form):
    written = {}
    for shard in range(2):
        samples = []
        for number in range(5):
            parts, written[f"{shard}{number:07d}"] = one_sample(rng, form)
            samples.append((f"{shard}{number:07d}", parts))
        write_shard(tmp_path / f"{shard:08d}.tar", samples)
    (tmp_path / "config.json").write_text(json.dumps(CROPFLIP) + "\n")
    report = import_labels(f"{tmp_path}/*.tar", tmp_path / "a.slc", format="mobileclip_dr")
    assert (report.format, report.codec) == ("MobileCLIP-DR", "dense:content=features")
    assert (report.num_images, report.num_crops, report.lost) == (10, 30, ["embeddings of texts, and synthetic captions"])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == list(written)
        for key, (embeddings, boxes, flips) in written.items():
            image = reader[key]
            np.testing.assert_array_equal(image.labels.vectors, embeddings)
            np.testing.assert_array_equal(image.crops, boxes)
            np.testing.assert_array_equal(image.flips, flips)
            assert image.image_size == (20, 30)


@pytest.mark.parametrize(
    ("config", "images", "why"),
    [
        (DEFAULT, True, "the images were not only cropped and mirrored: rand_augment"),
        (None, True, r"config\.json, which says what the augmentation was, is not beside the shards"),
        (CROPFLIP, False, "crops are in pixels of images whose sizes are not known: the shards do not hold the images"),
    ],
)
def test_embeddings_for_looking(tmp_path, rng, config, images, why):
    parts, (embeddings, _, _) = one_sample(rng, "npz", published=True, images=images)
    write_shard(tmp_path / "0.tar", [("a", parts)])
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    report = import_labels(tmp_path, tmp_path / "a.slc", format="mobileclip_dr")
    assert report.lost[1].startswith("parameters of the augmentation")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        np.testing.assert_array_equal(reader["a"].labels.vectors, embeddings)
        with pytest.raises(MismatchError, match=why):
            reader.draw([0], crops_per_image=1)


def test_features_are_no_probabilities(tmp_path, rng):
    write_shard(tmp_path / "0.tar", [("a", one_sample(rng, "npz")[0])])
    refused(tmp_path, ArgumentError, "the source has features, which are not probabilities", codec="marginal_smoothing:k=5")


def test_an_interrupted_import_continues(tmp_path, rng):
    write_shard(tmp_path / "0.tar", [(f"{number:03d}", one_sample(rng, "npz")[0]) for number in range(70)])

    def stop(done, total):
        if done == 65:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_labels(tmp_path / "0.tar", tmp_path / "a.slc", format="mobileclip_dr", progress=stop)
    import_labels(tmp_path / "0.tar", tmp_path / "a.slc", format="mobileclip_dr")
    import_labels(tmp_path / "0.tar", tmp_path / "b.slc", format="mobileclip_dr")
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "b.slc").read_bytes()


def test_processes_make_the_same_file(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(writer, "TARGET_BYTES_PER_BLOCK", 6144)  # as other processes have it
    write_shard(tmp_path / "0.tar", [(f"{number:03d}", one_sample(rng, "pth.gz")[0]) for number in range(7)])
    for workers in (0, 1):
        import_labels(tmp_path / "0.tar", tmp_path / f"{workers}.slc", format="mobileclip_dr", workers=workers)
    assert (tmp_path / "0.slc").read_bytes() == (tmp_path / "1.slc").read_bytes()


def refused(folder, error, message, **options):
    with pytest.raises(error, match=message):
        import_labels(folder, folder / "out.slc", format="mobileclip_dr", **options)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_samples_that_hold_something_else(tmp_path, rng, capsys):
    def written(**changed):
        parts, _ = one_sample(rng, "npz")
        other = dict(parts)
        for name, value in changed.items():
            ending = {"npz": "npz", "pth": "pth.gz", "paug": "paug.json", "jpg": "jpg"}[name]
            if ending == "pth.gz":
                del other["npz"]
            other.pop(ending, None)
            if value is not None:
                other[ending] = value
        write_shard(tmp_path / "0.tar", [("a", parts), ("b", other)])
        (tmp_path / "config.json").write_text(json.dumps(CROPFLIP))

    written(npz={"image_emb": np.zeros((SAMPLES, WIDTH + 1), np.float32)})
    refused(tmp_path, MismatchError, r"0\.tar: b: .*expected \(M, 12\), as in the first image, got shape \(3, 13\)")
    written(npz={"image_emb": np.zeros((2, WIDTH), np.float32)})
    refused(tmp_path, MismatchError, "expected parameters of 2 crops, as there are embeddings, got 3")
    written(npz={"image_emb": np.full((SAMPLES, WIDTH), np.nan, np.float32)})
    refused(tmp_path, MismatchError, "holds NaN or infinity")
    written(npz={"text_emb": np.zeros((SAMPLES, WIDTH), np.float32)})
    refused(tmp_path, MismatchError, "expected image_emb as float16, bfloat16 or float32, got NoneType")
    written(npz={"image_emb": np.array([Evil()])})
    refused(tmp_path, CorruptError, "Objects are pickles, which are never read")
    written(pth={"image_emb": Evil()})
    refused(tmp_path, CorruptError, "without running code: it requires")
    written(pth={"image_emb": torch.zeros(SAMPLES, WIDTH, dtype=torch.float8_e5m2)})
    refused(tmp_path, MismatchError, "expected image_emb as float16, bfloat16 or float32, got torch.float8_e5m2")
    written(pth={"image_emb": torch.zeros(SAMPLES, WIDTH + 1, requires_grad=True)})
    refused(tmp_path, MismatchError, r"expected \(M, 12\), as in the first image, got shape \(3, 13\)")
    written(pth=b"no gzip")
    refused(tmp_path, CorruptError, "not a readable gzip file")
    written(pth=gzip.compress(bytes(2**28 + 1)))
    refused(tmp_path, CorruptError, "expected at most 268435456 bytes, got more")
    written(paug=None)
    refused(tmp_path, MismatchError, r"expected the parameters of the augmentation, b\.paug\.json")
    written(paug=b'{"param_aug": "[[1"}')
    refused(tmp_path, CorruptError, r"b\.paug\.json: expected JSON with param_aug")
    written(paug={"param_aug": [[[0, 0, 90, 90], True]] * SAMPLES})
    refused(tmp_path, MismatchError, "crop")
    written(paug={"param_aug": [[[0, 0, 2**70, 9], True]] * SAMPLES})
    refused(tmp_path, CorruptError, "expected a crop as four whole numbers of pixels")
    refused(tmp_path, ArgumentError, "expected no folder of images", images=tmp_path)
    written(jpg=b"no image")
    refused(tmp_path, CorruptError, r"b\.jpg")
    written(jpg=None)
    refused(tmp_path, MismatchError, r"expected the image, b\.jpg, as in the first sample")
    (tmp_path / "config.json").write_text("[")
    refused(tmp_path, CorruptError, r"config\.json: expected JSON")
    data = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(data[: len(data) // 2])
    (tmp_path / "config.json").unlink()
    refused(tmp_path, CorruptError, r"0\.tar")
    write_shard(tmp_path / "0.tar", [("a", {"json": {}})])
    refused(tmp_path, MismatchError, r"expected samples with UID\.npz or UID\.pth\.gz in the shards, found none")
    assert capsys.readouterr().out == ""


def test_links_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("a.npz")
        member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere.npz")
        tar.addfile(member)
    with pytest.raises(CorruptError, match=r"a\.npz: expected a file of at most \d+ bytes, got a link"):
        import_labels(tmp_path / "a.tar", tmp_path / "a.slc", format="mobileclip_dr")
