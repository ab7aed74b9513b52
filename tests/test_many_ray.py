"""Label sets made and read on a cluster of Ray's: two nodes on this machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.data
from conftest import TEACHER
from PIL import Image
from ray.cluster_utils import Cluster
from ray_driver import CROPS, label

from softlabel_codec import SoftLabelReader
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.teacher import EncodeConfig, encode

pytestmark = [pytest.mark.many, pytest.mark.filterwarnings("ignore")]  # Ray gives many warnings to itself

ROOT = Path(__file__).parents[1]
CODEC = "marginal_smoothing:t=0.05,tail=3"
SLOW_TEACHER = """

class Slow(nn.Sequential):
    def forward(self, images):
        time.sleep(0.1)
        return super().forward(images)

def slow():
    return Slow(build())
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two nodes of two processors each, and this process as the driver."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # of all workers
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 2**27})
    nodes.add_node(num_cpus=2, object_store_memory=2**27)
    ray.init(nodes.address, log_to_driver=False, logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with images, a teacher, and the file `one.slc` of the labels that one process gives them."""
    folder = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    for number in range(26):
        path = folder / "images" / f"n{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50 + number, 3), dtype=np.uint8)).save(path)
    (folder / "teacher.py").write_text(f"import time\n{TEACHER}{SLOW_TEACHER}")
    encode(EncodeConfig(str(folder / "images"), str(folder / "one.slc"), f"{folder}/teacher.py:slow", CODEC, CROPS))
    return folder


def shards_of(out):
    """Return the shards of a set in the order of its index, after checking that nothing else was left."""
    index = SetIndex.unpack((out / f"{out.name}.slc.index.json").read_bytes())
    paths = [out / shard.file for shard in index.shards]
    assert {path.name for path in out.iterdir()} == {path.name for path in paths} | {f"{out.name}.slc.index.json"}
    return paths


def images_of(*paths):
    """Return keys and labels of all images of some files."""
    images = []
    for path in paths:
        with SoftLabelReader(path) as reader:
            images += [(key, image.image_crc32, image.labels.dense().tobytes()) for key, image in zip(reader.keys, reader, strict=True)]
    return images


def test_shards_hold_the_labels_that_one_process_gives(desk, tmp_path):
    report = label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC, shards=3)
    paths = shards_of(tmp_path / "set")
    assert [path.name for path in paths] == [f"set-0000{number}-of-00003.slc" for number in range(3)]
    assert images_of(*paths) == images_of(desk / "one.slc")
    assert (report.num_images, report.resumed_images, report.crops_per_image, report.skipped) == (26, 0, CROPS, {})
    again = label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC, shards=3)
    assert (again.num_images, again.finished_before) == (26, True)
    with pytest.raises(FileExistsError, match="made with other options: shards: expected 2, found 3. Pass overwrite=True"):
        label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC, shards=2)


def wait_for_parts(out, count):
    """Wait until some parts of a set are written."""
    for _ in range(600):
        if len(list(out.glob("*.parts/*.slc"))) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"expected {count} parts within a minute")


def actors():
    """Return the numbers of the processes of teachers."""
    lines = subprocess.run(["ps", "-eo", "pid,args"], check=True, capture_output=True, text=True).stdout
    return [int(pid) for pid in re.findall(r"^ *(\d+) ray::MapWorker\(MapBatches\(PartLabeller", lines, re.MULTILINE)]


def test_a_killed_actor_costs_nothing(desk, tmp_path):
    def kill():
        wait_for_parts(tmp_path / "set", 1)
        killed.extend(actors()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killed = []
    killer = threading.Thread(target=kill)
    killer.start()
    report = label(desk / "images", tmp_path / "set", f"{desk}/teacher.py:slow", codec=CODEC)
    killer.join()
    assert len(killed) == 1
    assert report.resumed_images == 0
    (path,) = shards_of(tmp_path / "set")
    assert path.read_bytes() == (desk / "one.slc").read_bytes()


def test_a_killed_driver_continues(desk, tmp_path, cluster):
    out = tmp_path / "set"

    program = f"import ray_driver, ray; ray.init({cluster.address!r}); ray_driver.label({str(desk / 'images')!r}, {str(out)!r}, "
    program += f"{str(desk)!r} + '/teacher.py:slow', codec={CODEC!r})"
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_parts(out, 2)
    driver.kill()
    driver.wait()
    parts = sorted(out.glob("*.parts/*.slc"))
    (parts[0].parent / "cut.slc").write_bytes(parts[0].read_bytes()[:-1])  # as a task leaves it that is killed while it writes
    shutil.copy(parts[1], parts[1].parent / "twice.slc")  # as a task leaves it that ran twice
    report = label(desk / "images", out, f"{desk}/teacher.py:slow", codec=CODEC)
    assert report.resumed_images >= 2
    (path,) = shards_of(out)
    assert path.read_bytes() == (desk / "one.slc").read_bytes()
