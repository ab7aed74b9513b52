"""Labels in the files of WebDataset and Hugging Face datasets, as these libraries read and write them (`make test-others`)."""

import gc

import numpy as np
import pytest
from conftest import write_labels
from test_formats import arrays, rows_of  # noqa: F401  a fixture

from softlabel_codec import SoftLabelReader
from softlabel_codec.formats import export_labels, import_labels
from softlabel_codec.formats.image_folders import image_folder_keys
from softlabel_codec.formats.relabel import pooled_logits

pytestmark = pytest.mark.others


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves shards open
def test_webdataset_reads_the_shards(tmp_path):
    from webdataset import WebDataset

    written = write_labels(tmp_path / "a.slc", "marginal_smoothing:k=5,values=f32", counts=(3, 1, 40, 7))
    export_labels(tmp_path / "a.slc", tmp_path / "l-{0..1}.tar")
    samples = list(WebDataset(f"{tmp_path}/l-{{0..1}}.tar", shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [key.removesuffix(".png") for key in written]
    for sample, (key, (crops, flips, probs)) in zip(samples, written.items(), strict=True):
        labels = sample["labels.npz"]
        assert str(labels["key"]) == key
        np.testing.assert_array_equal(labels["crops"], crops)
        np.testing.assert_array_equal(labels["flips"], flips)
        np.testing.assert_array_equal(labels["values"], np.take_along_axis(probs, labels["indices"], axis=1))
    gc.collect()


def test_shards_that_webdataset_wrote(tmp_path, arrays):  # noqa: F811
    from webdataset import TarWriter

    with TarWriter(str(tmp_path / "a.tar")) as writer:
        for row, key in enumerate(["n1/a", "n1/b", "n2/c"]):
            names = {"image_sizes": "image_size"}
            one = {names.get(name, name): array[row] if array.shape else array for name, array in arrays.items() if name != "keys"}
            writer.write({"__key__": key, "jpg": b"an image", "labels.npz": one})
    import_labels(tmp_path / "a.tar", tmp_path / "a.slc")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == ["n1/a", "n1/b", "n2/c"]
        np.testing.assert_array_equal(reader[2].labels.values, arrays["values"][2])


def test_datasets_reads_the_table(tmp_path):
    from datasets import load_dataset

    written = write_labels(tmp_path / "a.slc", "dense", counts=(3, 1, 4))
    export_labels(tmp_path / "a.slc", tmp_path / "a.parquet")
    rows = load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=str(tmp_path / "cache"))
    for row, (key, (crops, flips, probs)) in zip(rows, written.items(), strict=True):
        assert row["key"] == key
        assert row["crops"] == crops.tolist()
        assert row["flips"] == flips.tolist()
        np.testing.assert_array_equal(np.float32(row["probs"]), probs)


def test_tables_that_datasets_wrote(tmp_path, arrays):  # noqa: F811
    from datasets import Dataset

    rows = {**rows_of(arrays), "num_classes": [30] * 3}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "a.parquet"))
    import_labels(tmp_path / "a.parquet", tmp_path / "a.slc")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == arrays["keys"].tolist()
        np.testing.assert_array_equal(reader[1].labels.values, arrays["values"][1].astype(np.float32))


def test_label_maps_are_pooled_as_torchvision_does():
    import torch
    from torchvision.ops import roi_align

    rng = np.random.default_rng(0)
    scores, classes = rng.normal(size=(5, 15, 15)), np.stack([rng.permutation(30)[:5] for _ in range(225)], axis=1).reshape(5, 15, 15)
    full = torch.zeros(30, 15, 15, dtype=torch.float64).scatter_(0, torch.tensor(classes), torch.tensor(scores))
    size = (375, 500)
    top, left = rng.integers(0, 370, 400), rng.integers(0, 495, 400)
    crops = np.stack([top, left, rng.integers(1, 376 - top), rng.integers(1, 501 - left)], axis=1)
    crops = np.concatenate([crops, [[0, 0, 375, 500], [0, 0, 1, 1], [374, 499, 1, 1], [0, 0, 25, 100]]])
    i, j, h, w = (torch.tensor(part / side) for part, side in zip(crops.T, (*size, *size), strict=True))
    for swapped in (False, True):
        corners = [i, j, i + h, j + w] if swapped else [j, i, j + w, i + h]
        boxes = torch.stack([torch.zeros(len(crops)), *(corner.float() * 15 - 0.5 for corner in corners)], dim=1)
        expected = roi_align(full[None].float(), boxes, output_size=(1, 1)).reshape(len(crops), 30)
        got = pooled_logits(scores, classes, crops, size, 30, swapped=swapped)
        np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=2e-6)


def test_images_are_counted_as_torchvision_does(tmp_path):
    from PIL import Image
    from torchvision.datasets import ImageFolder

    for name in (
        "b/10.png",
        "b/9.png",
        "b/c/1.png",
        "b/c-d/1.png",
        "b/B.JPEG",
        "a-b/1.png",
        "a/z.webp",
        "a/x.gif",
        "a/.hidden.png",
        "top.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    expected = [path.removeprefix(f"{tmp_path}/") for path, _ in ImageFolder(tmp_path).samples]
    assert image_folder_keys(tmp_path) == [key for key in expected if "/." not in key]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_embeddings_that_webdataset_wrote(tmp_path):
    import torch
    from webdataset import TarWriter

    embeddings = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    with TarWriter(str(tmp_path / "a.tar")) as writer:
        for row, form in enumerate(["npz", "pth.gz"]):
            one = embeddings[row] if form == "npz" else torch.tensor(embeddings[row]).to(torch.bfloat16)
            writer.write({"__key__": f"0{row}", "paug.json": {"param_aug": [[[0, 0, 9, 9], []]] * 3}, form: {"image_emb": one}, "json": {}})
    import_labels(tmp_path / "a.tar", tmp_path / "a.slc", format="mobileclip_dr")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        np.testing.assert_array_equal(reader["00"].labels.vectors, embeddings[0])
        np.testing.assert_allclose(reader["01"].labels.vectors, embeddings[1], rtol=2**-8)
