"""Labels behind real servers of S3 and HTTP, and what these may do wrong (`make test-many`)."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import write_labels
from remote import PASSING, Store, damaged_objects, few_bytes, read_through_faults, s3_store, upload_through_faults, web_store
from servers import NGINX, nginx_server, proxy
from torch.utils.data import DataLoader, Dataset

from softlabel_codec import CorruptError, SoftLabelError, SoftLabelReader, StateError
from softlabel_codec.report import verify
from softlabel_codec.storage import s3_upload, upload

pytestmark = pytest.mark.many

COUNTS = [60, 3, 40, 7] * 50


@pytest.fixture(scope="session")
def s3():
    with s3_store() as store:
        yield store


@pytest.fixture(scope="session")
def http(tmp_path_factory):
    with web_store(tmp_path_factory.mktemp("served")) as store:
        yield store


@pytest.fixture(scope="session")
def nginx(tmp_path_factory):
    if NGINX is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    with nginx_server(folder, tmp_path_factory.mktemp("scratch")) as server, proxy(server) as through:
        yield Store(through.url, through, lambda name, data: (folder / name).write_bytes(data))


@pytest.fixture(params=["s3", "http", "nginx"])
def store(request):
    found = request.getfixturevalue(request.param)
    found.proxy.tell(delay=0, faults=[])
    found.proxy.requests()
    yield found
    found.proxy.tell(delay=0, faults=[])


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.slc"
    write_labels(path, counts=COUNTS)
    return path


@pytest.fixture
def url(store, local, request):
    name = f"{request.node.name.translate(str.maketrans('[]-', '___'))}.slc"
    store.put(name, local.read_bytes())
    return store.url(name)


@pytest.fixture(autouse=True)
def large():
    """Make small files behave like large ones."""
    with few_bytes():
        yield


def assert_same(batch, expected):
    np.testing.assert_array_equal(batch.crops, expected.crops)
    np.testing.assert_array_equal(batch.labels.dense(), expected.labels.dense())


def test_opening_takes_two_requests_and_a_batch_one_round(store, url, local):
    with SoftLabelReader(local) as expected, SoftLabelReader(url) as reader:
        assert sorted(store.asked()) == ["GET bytes=-2000", "GET bytes=0-255"]
        assert reader.fingerprint == expected.fingerprint
        images = [3, 70, 7, 150]
        assert_same(reader.read_batch(images), expected.read_batch(images))
        assert len(store.asked()) == len({reader.container.index.locate(image)[0] for image in images}) == 3
        assert_same(reader.read_batch(images, [[0, 2]] * 4), expected.read_batch(images, [[0, 2]] * 4))
        assert [image.image_size for image in reader] == [image.image_size for image in expected]
    assert verify(url).ok


class Labels(Dataset):
    """A dataset that reads labels only."""

    def __init__(self, reader):
        self.reader = reader

    def __len__(self):
        return len(self.reader)

    def __getitems__(self, numbers):
        batch = self.reader.read_batch(numbers, [[0, 1]] * len(numbers))
        return [(os.getpid(), batch.labels.dense(), os.fspath(self.reader.path))]


def first(samples):
    return samples[0]


@pytest.mark.parametrize(("method", "epochs"), [("fork", 3), ("spawn", 1)])
def test_workers_have_clients_of_their_own(store, url, local, method, epochs):
    with SoftLabelReader(local) as expected, SoftLabelReader(url) as reader:
        reader.read_batch([3, 100])  # the client of this process has open connections
        loader = DataLoader(Labels(reader), 10, num_workers=2, collate_fn=first, multiprocessing_context=method)
        for _ in range(epochs):
            processes = set()
            for number, (pid, labels, path) in enumerate(loader):
                processes.add(pid)
                images = range(10 * number, 10 * number + 10)
                np.testing.assert_array_equal(labels, expected.read_batch(images, [[0, 1]] * 10).labels.dense())
                assert path == url
            assert len(processes - {os.getpid()}) == 2
            assert_same(reader.read_batch([50, 180]), expected.read_batch([50, 180]))


def test_a_fork_that_ends_as_programs_do_leaves_the_connections_of_its_parent_alone(store, url):
    script = f"""
import os, sys
from softlabel_codec import SoftLabelReader
from softlabel_codec.storage import remote_source
remote_source.BEGINNING_BYTES, remote_source.END_BYTES, remote_source.GAP_BYTES = 256, 2000, 100
reader = SoftLabelReader({url!r})
reader.read_batch([3, 100])
for _ in range(3):
    pid = os.fork()
    if not pid:
        reader.read_batch([50, 150])
        sys.exit(0)
    reader.read_batch([20, 110])
    assert os.waitpid(pid, 0)[1] == 0
    reader.read_batch([30, 120])
"""
    assert in_python(script) == ""


@pytest.mark.parametrize("fault", PASSING)
def test_passing_faults_are_tried_again(store, url, local, fault):
    images = [3, 70, 7, 150]
    with SoftLabelReader(local) as expected:
        store.proxy.tell(faults=[fault, "none", fault])
        with SoftLabelReader(url) as reader:
            store.proxy.tell(faults=[fault, fault, "none", fault])
            assert_same(reader.read_batch(images), expected.read_batch(images))
    assert verify(url).ok


@pytest.mark.parametrize("fault", PASSING)
def test_lasting_faults_are_errors_that_name_url_and_range(store, url, fault):
    with SoftLabelReader(url) as reader:
        store.proxy.tell(faults=[f"{fault}..."])
        with pytest.raises(OSError, match=rf"bytes \d+ to \d+: .*{url}") as caught:
            reader.read_batch([3, 70, 7, 150])
        assert caught.value.filename == url
        tries = Counter(store.asked()).most_common(1)[0][1]
        assert 3 <= tries <= 10  # aiohttp repeats what was dropped once more itself
        store.proxy.tell(faults=[])
        reader.read_batch([3, 70, 7, 150])
        store.proxy.tell(faults=[f"{fault}..."])
        with pytest.raises(OSError, match=url):
            SoftLabelReader(url)


def test_every_read_is_right_or_an_error(store, tmp_path):
    """Whatever a service does, at whatever request."""
    found = read_through_faults(store, tmp_path, 15)
    assert found.right > found.reads / 2
    assert len(found.refused) > 1


def test_uploads_that_fail_leave_whole_objects_and_no_index_without_shards(s3, tmp_path):
    found = upload_through_faults(s3, tmp_path, 2)
    assert (found.finished_sets, found.of_large_files) == (2, 1)
    assert found.looks >= 2


def test_damage_in_the_bucket_is_an_error_where_it_is_and_found(s3, tmp_path):
    found = damaged_objects(s3, tmp_path, 12)
    assert found.found_by_verify == found.damaged == 12
    assert len(found.refused) > 1


def test_an_object_that_is_replaced_while_it_is_read(store, url, local, tmp_path):
    reader = SoftLabelReader(url)
    kept = pickle.dumps(reader)
    reader.read_batch([3, 100])
    write_labels(tmp_path / "other.slc", counts=COUNTS, seed=1)
    store.put(url.rpartition("/")[2], (tmp_path / "other.slc").read_bytes())
    with pytest.raises(StateError, match=f"{url}: the file was replaced while it was being read: .* bytes, version .*Open it again"):
        reader.read_batch([20, 150])
    with pytest.raises(StateError, match=f"{url}: the file was replaced after the reader was created"):
        pickle.loads(kept)


def test_stale_answers_are_errors(store, url, local, tmp_path):
    """A cache on the way still has parts of the object that was there before."""
    with SoftLabelReader(url) as reader:
        reader.read_batch([20, 150])
    write_labels(tmp_path / "other.slc", counts=COUNTS, seed=1)
    store.put(url.rpartition("/")[2], (tmp_path / "other.slc").read_bytes())
    store.proxy.tell(faults=["none", "old"])
    with pytest.raises(StateError, match="was replaced while it was being read"):
        SoftLabelReader(url)


def test_an_object_damaged_in_the_bucket_is_named(store, url, local):
    with SoftLabelReader(local) as reader:
        start = int(reader.container.index.starts[reader.container.index.locate(70)[0]])
    data = bytearray(local.read_bytes())
    data[start + 20] ^= 1
    store.put(url.rpartition("/")[2], bytes(data))
    with SoftLabelReader(url) as reader:
        with pytest.raises(CorruptError, match=rf"{url}: block \d+ at byte {start}, images \d+ to \d+: checksum"):
            reader.read_batch([3, 70, 150])
        reader.read_batch([3, 150])
    report = verify(url)
    assert [problem.error for problem in report.problems] == ["CorruptError", "CorruptError"]


def test_a_server_that_ignores_ranges(store, url, local, caplog):
    store.proxy.tell(faults=["whole..."])
    with SoftLabelReader(local) as expected, SoftLabelReader(url) as reader:
        assert [record.message for record in caplog.records] == [f"{url}: the server ignores ranges: the whole file is read at once"]
        store.asked()
        assert_same(reader.read_batch([3, 70, 150]), expected.read_batch([3, 70, 150]))
        assert store.asked() == []


def test_what_is_not_there(store):
    with pytest.raises(FileNotFoundError, match=f"no such (file|object): .*{store.url('nowhere.slc')}"):
        SoftLabelReader(store.url("nowhere.slc"))
    assert max(Counter(store.asked()).values()) == 1
    store.proxy.tell(faults=["cut", "cut"])
    with pytest.raises(FileNotFoundError, match="no such"):
        SoftLabelReader(store.url("nowhere.slc"))


def test_what_is_forbidden(store, url):
    store.proxy.tell(faults=["forbidden..."])
    with pytest.raises(PermissionError, match=rf"403.*[Cc]redentials.*{url}"):
        SoftLabelReader(url)
    assert max(Counter(store.asked()).values()) == 1


def test_an_empty_object(store, url):
    store.put(url.rpartition("/")[2], b"")
    with pytest.raises(SoftLabelError, match=f"{url}: the file ends within its header"):
        SoftLabelReader(url)


def in_python(text, **environment):
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "environment", "message"),
    [
        (
            "bucket/labels.slc",
            {"AWS_ACCESS_KEY_ID": ""},
            "PermissionError: .*redentials.* Set AWS_ACCESS_KEY_ID.*FSSPEC_S3_ANON=true: 's3:",
        ),
        ("no-bucket/labels.slc", {}, "FileNotFoundError: .* no such bucket: .*NoSuchBucket.*: 's3://no-bucket/labels.slc'"),
        ("bucket/labels.slc", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "OSError: .*Could not connect to the endpoint.*: 's3:"),
        ("Not A Bucket/labels.slc", {}, "OSError: .*Invalid bucket name.*: 's3:"),
    ],
)
def test_what_s3_may_say(s3, path, environment, message):
    said = in_python(f"from softlabel_codec import SoftLabelReader\nSoftLabelReader('s3://{path}')", **environment)
    assert re.search(message, said.splitlines()[-1]), said


def test_signatures_are_not_shown(http, local):
    http.put("signed.slc", local.read_bytes()[:-1])
    for path in ("signed.slc", "nowhere.slc"):
        with pytest.raises((SoftLabelError, OSError), match=path) as caught:
            SoftLabelReader(f"{http.url(path)}?X-Amz-Signature=1234")
        assert "1234" not in str(caught.value)
    http.proxy.tell(faults=["cut..."])
    with pytest.raises(OSError, match=r"signed\.slc") as caught:
        SoftLabelReader(f"{http.url('signed.slc')}?X-Amz-Signature=1234")
    http.proxy.tell(faults=[])
    assert "1234" not in str(caught.value)


OPENED = """
from softlabel_codec import SoftLabelReader
from softlabel_codec.storage import cache, remote_source
remote_source.BEGINNING_BYTES = remote_source.END_BYTES = 1000
cache.ROUND_BYTES = {round_bytes}
with SoftLabelReader({url!r}, cache={folder!r}) as reader:
    print(reader.container.source.also, len(list(reader)))
"""


def test_processes_fetch_a_file_once(store, url, local, tmp_path):
    store.proxy.tell(delay=0.2)
    script = OPENED.format(url=url, folder=str(tmp_path / "cache"), round_bytes=2**25)
    commands = [[sys.executable, "-c", script] for _ in range(4)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for command in commands]
    told = [process.communicate(timeout=200)[0] for process in running]
    copy = next((tmp_path / "cache").iterdir())
    assert told == [f" (its copy {copy}) {len(COUNTS)}\n"] * 4
    assert copy.read_bytes() == local.read_bytes()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".slc"]
    assert len(store.asked()) == 4 * 2 + 1  # all see what there is; one fetches it


def test_what_a_process_fetched_until_it_was_killed_is_kept(store, url, local, tmp_path):
    script = OPENED.format(url=url, folder=str(tmp_path / "cache"), round_bytes=4096)
    store.proxy.tell(delay=0.2)
    running = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    part = None
    while part is None or part.stat().st_size < 3 * 4096:
        part = next((path for path in (tmp_path / "cache").glob("*.part")), None)
        assert running.poll() is None
    running.kill()
    running.wait()
    size = part.stat().st_size
    assert size < local.stat().st_size
    store.proxy.tell(delay=0)
    store.proxy.requests()
    assert f"(its copy {part.with_suffix('.slc')})" in in_python(script)
    starts = sorted(int(asked.partition("=")[2].partition("-")[0] or 0) for asked in store.asked())
    assert starts[2] == size  # after the two of opening


@pytest.fixture
def upstream(s3):
    """Return what S3 holds, past the proxy."""
    s3.proxy.tell(delay=0, faults=[])
    return lambda name: s3.files.cat_file(f"bucket/{name}")


@pytest.mark.parametrize("part_bytes", [2**25, 5 * 2**20])
def test_uploads_to_s3_never_replace_an_object_unasked(s3, upstream, tmp_path, monkeypatch, part_bytes):
    monkeypatch.setattr(s3_upload, "PART_BYTES", part_bytes)
    rng, name = np.random.default_rng(part_bytes), f"upload-{part_bytes}.bin"
    (tmp_path / "a").write_bytes(rng.bytes(12 * 2**20))
    (tmp_path / "b").write_bytes(rng.bytes(12 * 2**20))
    upload(tmp_path / "a", s3.url(name))
    assert upstream(name) == (tmp_path / "a").read_bytes()
    upload(tmp_path / "a", s3.url(name))
    with pytest.raises(FileExistsError, match=f"another object is there; .*: '{s3.url(name)}'"):
        upload(tmp_path / "b", s3.url(name))
    assert upstream(name) == (tmp_path / "a").read_bytes()
    upload(tmp_path / "b", s3.url(name), overwrite=True)
    assert upstream(name) == (tmp_path / "b").read_bytes()


def test_of_several_uploads_at_once_one_wins(s3, upstream, tmp_path):
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 1000)

    def one(number):
        try:
            upload(tmp_path / str(number), s3.url("contested"))
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(4) as threads:
        winners = [number for number in threads.map(one, range(4)) if number is not None]
    assert len(winners) == 1
    assert upstream("contested") == (tmp_path / str(winners[0])).read_bytes()


def test_uploads_that_fail_leave_nothing(s3, upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * 2**20)
    (tmp_path / "a").write_bytes(bytes(12 * 2**20))
    s3.proxy.tell(faults=["put:slow_down", "put:none", "put:drop", "put:broken"])
    upload(tmp_path / "a", s3.url("with-faults"))
    assert upstream("with-faults") == bytes(12 * 2**20)
    s3.proxy.tell(faults=["put:none", "put:slow_down..."])
    with pytest.raises(OSError, match=f"upload part: the service answers 503: .*SlowDown.*: '{s3.url('failed')}'"):
        upload(tmp_path / "a", s3.url("failed"))
    s3.proxy.tell(faults=[])
    assert not s3.files.exists("bucket/failed")
    assert not s3.files.call_s3("list_multipart_uploads", Bucket="bucket", Prefix="failed").get("Uploads")
    with pytest.raises(FileNotFoundError, match=r"no such bucket: .*NoSuchBucket"):
        upload(tmp_path / "a", "s3://no-bucket/a")


BENCHMARK = """
import json
from benchmarks import storage
storage.COPIES, storage.ROUNDS, storage.DELAYS, storage.GAPS, storage.RANGES = 1, 2, (0.0, 0.001), (0,), (1,)
print(json.dumps(storage.measure()))
"""


@pytest.mark.shared
def test_the_benchmark_measures_every_way_of_reading():
    found = json.loads(in_python(BENCHMARK))
    assert list(found["stores"]) == ["S3", "HTTP"]
    for delays in found["stores"].values():
        for ways in delays.values():
            assert {name: way["opening again"]["requests"] for name, way in ways.items()} == dict.fromkeys(ways, 2)
            assert ways["cache"]["batch"]["requests"] == 0
