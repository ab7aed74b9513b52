"""Label sets that several processes write to a real S3 server, as machines do that share nothing but the bucket (`make test-many`)."""

import os
import subprocess
import sys

import fsspec
import pytest
from crashes.command import write_images_and_teacher
from servers import CREDENTIALS, s3_server

from softlabel_codec.report import verify

pytestmark = pytest.mark.many

ENCODE = "-m", "softlabel_codec", "encode"
TORCHRUN = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "softlabel_codec.teacher"


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, s3_server() as url:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": url}.items():
            patch.setenv(name, value)
        type(fsspec.filesystem("s3")).clear_instance_cache()  # clients of other tests, which know another server
        files = fsspec.filesystem("s3", endpoint_url=url, skip_instance_cache=True)
        files.mkdir("bucket")
        yield files


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Images, a teacher, and the files of the set that one worker made of them in a folder."""
    folder = tmp_path_factory.mktemp("desk")
    write_images_and_teacher(folder, 30)
    ended(start(folder, folder / "labels"))
    return folder


def start(desk, out, *more, begin=ENCODE, **environment):
    """Start a worker."""
    what = ["--teacher", f"{desk / 'teacher.py'}:build", "--crops", "200", "--device", "cpu", "--workers", "0", "--codec", "hard"]
    command = [sys.executable, *begin, str(desk / "images"), str(out), *what, "--shards", "4", *more]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def ended(process, code=0):
    """Wait for a worker, check how it ended, and return what it said."""
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    return output + errors


def contents(bucket, name):
    return {path.rpartition("/")[2]: bucket.cat_file(path) for path in bucket.find(f"bucket/{name}")}


def made_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_machines_that_share_only_the_bucket(bucket, desk, tmp_path):
    workers = [start(desk, "s3://bucket/machines/labels", "--work", str(tmp_path / name)) for name in ("a", "b", "c")]
    for worker in workers:
        ended(worker)
    assert contents(bucket, "machines/labels") == made_in(desk / "labels")
    assert verify("s3://bucket/machines/labels", deep=True).ok
    assert "finished  before" in ended(start(desk, "s3://bucket/machines/labels", "--work", str(tmp_path / "d")))


def test_ranks_of_torchrun(bucket, desk, tmp_path):
    ended(start(desk, "s3://bucket/ranks/labels", "--work", str(tmp_path / "work"), begin=TORCHRUN))
    assert contents(bucket, "ranks/labels") == made_in(desk / "labels")


def test_what_the_service_refuses_is_said_before_the_teacher_runs(bucket, desk, tmp_path):
    work = "--work", str(tmp_path / "work")
    assert "s3://nobucket" in ended(start(desk, "s3://nobucket/labels", *work), 1)
    said = ended(start(desk, "s3://bucket/labels", *work, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""), 1)
    assert "credentials" in said
    assert not bucket.find("bucket/labels")
