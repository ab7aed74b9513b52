"""Labels in the files of WebDataset and Hugging Face datasets, as these libraries read and write them (`make test-others`)."""

import gc

import numpy as np
import pytest
from conftest import write_labels
from test_formats import arrays, rows_of  # noqa: F401  a fixture

from softlabel_codec import SoftLabelReader
from softlabel_codec.formats import export_labels, import_labels

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
