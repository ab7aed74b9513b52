"""Uploads to object storage, in memory. To S3: test_many_storage.py."""

import pytest
from conftest import write_labels

from softlabel_codec import ArgumentError
from softlabel_codec.storage import upload

URL = "flaky://bucket/labels.slc"


@pytest.fixture
def local(tmp_path):
    write_labels(tmp_path / "labels.slc")
    return tmp_path / "labels.slc"


def test_a_file_is_uploaded_and_never_replaced_unasked(files, local):
    upload(local, URL)
    data = local.read_bytes()
    assert files.store["/bucket/labels.slc"].getvalue() == data
    upload(local, URL)  # the same file: nothing to do
    write_labels(local, seed=1, overwrite=True)
    with pytest.raises(FileExistsError, match=rf"another object is there; pass overwrite=True \(--overwrite\) to replace it: '{URL}'"):
        upload(local, URL)
    assert files.store["/bucket/labels.slc"].getvalue() == data
    upload(local, URL, overwrite=True)
    assert files.store["/bucket/labels.slc"].getvalue() == local.read_bytes()


def test_what_has_not_arrived_is_an_error(files, local, monkeypatch):
    def put_file(path, there, **options):
        files.pipe_file(there, local.read_bytes()[:-1])

    monkeypatch.setattr(type(files), "put_file", lambda self, *args, **options: put_file(*args, **options))
    with pytest.raises(OSError, match=f"what was uploaded differs from the file.*Upload it again: '{URL}'"):
        upload(local, URL)


def test_errors_of_a_service_name_the_url(files, local, monkeypatch):
    def refuse(self, *args, **options):
        raise RuntimeError("quota exceeded")

    monkeypatch.setattr(type(files), "put_file", refuse)
    with pytest.raises(OSError, match=f"RuntimeError quota exceeded: '{URL}'"):
        upload(local, URL)


@pytest.mark.parametrize("where", ["https://example.org/labels.slc", "labels.slc"])
def test_where_nothing_can_be_uploaded(local, where):
    with pytest.raises(ArgumentError, match=f"{where}: expected a URL of object storage, such as s3://BUCKET/labels.slc"):
        upload(local, where)


def test_what_is_not_there_cannot_be_uploaded(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.slc"):
        upload(tmp_path / "nowhere.slc", URL)
