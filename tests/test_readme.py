"""Every block of the README and of the pages in docs/ is run, every link leads somewhere, numbers are those of the committed results."""

import configparser
import io
import json
import os
import re
import shlex
import struct
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from torch import nn

from softlabel_codec import Codec
from softlabel_codec.cli.codecs import STRINGS
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.report import inspect
from softlabel_codec.students import build_student
from softlabel_codec.teacher import EncodeConfig, encode

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
"""The README and the how-to pages, by the names of their files."""
README = PAGES["README"]
LINKING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", ROOT / "examples" / "README.md"]
LINKING += [path for folder in ("docs", "spec", "benchmarks") for path in sorted((ROOT / folder).glob("*.md"))]
NOT_DESCRIBED = {f"softlabel_codec.{name}" for name in ("choosing", "demo", "formats.fkd", "images.sources", "labels")}
"""Packages without a page: what users need of them is in others, too."""
PLACEHOLDERS = """
from torch import nn

def somebody_elses_resnet50() -> nn.Module:
    raise NotImplementedError

student: nn.Module
device: str
"""
"""What readers of a page have, for a type checker."""


def blocks_of(text):
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


BLOCKS = [block for text in PAGES.values() for block in blocks_of(text)]
(TEACHER,) = (block for language, block in BLOCKS if language == "python" and "def build()" in block)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder as a reader may have it: photographs, a teacher, label files of FKD's, a recipe."""
    rng = np.random.default_rng(0)
    for number in range(10):
        folder, test, labels = (tmp_path / top / f"n{number}" for top in ("photos/train", "photos/val", "FKD_labels"))
        for place in (folder, test, labels):
            place.mkdir(parents=True)
        for place in (folder, test):
            Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(place / f"{number}.jpg")
        fractions = np.float32([[0.0, 0.25, 0.5, 0.5], [0.25, 0.0, 0.75, 1.0]])
        stored = np.stack([[[1, 2, 3, 4, 5]] * 2, [[0.5, 0.2, 0.1, 0.05, 0.05]] * 2], axis=1).astype(np.float32)
        torch.save([fractions, np.array([True, False]), stored], labels / f"{number}.tar")
    save_labels_of_other_projects(tmp_path, rng)
    small = (("resnet50", "small"), ("1000", "10"), ("224", "16"))
    teacher = TEACHER
    for large, small_one in small:
        assert large in teacher
        teacher = teacher.replace(large, small_one)
    (tmp_path / "teacher.py").write_text(teacher)
    (tmp_path / "smaller.py").write_text(teacher.replace("INPUT_SIZE = 16", "INPUT_SIZE = 12"))
    torch.save(build_student("small", 10).state_dict(), tmp_path / "small.pt")
    (recipe,) = (json.loads(block) for language, block in BLOCKS if language == "json")
    small = {"student": "small", "size": 16, "epochs": 1, "batch_size": 8, "workers": 0, "warmup_epochs": 0.0}
    (tmp_path / "moco.py").write_text(teacher)  # numbers of which it does not matter what they mean
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, **small}))
    (tmp_path / "unlabelled.json").write_text(json.dumps({name: value for name, value in {**recipe, **small}.items() if name != "val"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTLABEL_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    MemoryFileSystem.store.clear()


def save_labels_of_other_projects(folder, rng):
    """Write labels of SRe2L, ml-dr, MobileCLIP-DR and ReLabel for ten photographs."""
    for name in ("FKD_soft_label/epoch_0", "reinforced_data", "DataCompDR"):
        (folder / name).mkdir(parents=True)
    coords = torch.tensor([[0.0, 0.25, 0.5, 0.5]] * 10)
    batch = [coords, torch.tensor([True, False] * 5), None, None, None, torch.randn(10, 1000).half()]
    torch.save(batch, folder / "FKD_soft_label" / "epoch_0" / "batch_0.tar")
    augmentation = {"random_resized_crop": {"size": 224}, "random_horizontal_flip": {"p": 0.5}}
    torch.save({"num_classes": 1000, "reinforce": {"image_augmentation": augmentation}}, folder / "reinforced_data" / "config.pth.tar")
    for number in range(10):
        samples = [{"params": [(0, 5, 90, 100), True], "prob": ([0.25, 0.5], [number, 7 + number])}]
        torch.save((number, samples), folder / "reinforced_data" / f"{number}.pth.tar", pickle_protocol=4)
        maps = np.stack([rng.normal(3, 1, (5, 15, 15)), rng.permuted(np.tile(np.arange(20), (225, 1)), axis=1)[:, :5].T.reshape(5, 15, 15)])
        (folder / "relabel_imagenet" / f"n{number}").mkdir(parents=True)
        torch.save(torch.tensor(maps).float(), folder / "relabel_imagenet" / f"n{number}" / f"{number}.pt")
    with tarfile.open(folder / "DataCompDR" / "00000000.tar", "w") as tar:
        embeddings = io.BytesIO()
        np.savez(embeddings, image_emb=rng.normal(size=(2, 16)).astype(np.float32))
        for name, data in (("a.paug.json", b'{"param_aug": "[[[0, 0, 9, 9], []], [[0, 0, 9, 9], []]]"}'), ("a.npz", embeddings.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def run_shell(line):
    words = shlex.split(line.replace("torchvision:resnet50", "teacher.py:build"), comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        assert " ".join(words) in (ROOT / ".ci" / "run").read_text().splitlines(), line
    elif words[0] == "pip":
        setup = configparser.ConfigParser(interpolation=None)
        setup.read(ROOT / "setup.cfg")
        assert words[1] == "install"
        assert re.fullmatch(r"\.\[(\w+)\]", words[2])[1] in setup["options.extras_require"]
    else:
        assert words[0] == "slcodec"
        command = [sys.executable, "-m", "softlabel_codec", *words[1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr


def label(out, **options):
    encode(EncodeConfig(images="photos/train", out=out, teacher="teacher.py:build", crops=200, codec="marginal_smoothing:k=5", **options))


def label_what_other_pages_label(page):
    """Make the label files that a page uses, but does not make."""
    if "labels.slc" in PAGES[page] and "encode photos/train labels.slc" not in PAGES[page]:
        label("labels.slc")
    if "train-labels" in PAGES[page] and "encode photos/train train-labels" not in PAGES[page]:
        label("train-labels", shards=4)


@pytest.mark.filterwarnings("ignore:.*crops are normalised with")  # the teacher's mean is not ImageNet's
@pytest.mark.filterwarnings("ignore:.* agree with the class folders for only")  # the teacher here has not learned anything
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page, desk):
    label_what_other_pages_label(page)
    names = {
        "somebody_elses_resnet50": lambda: build_student("small", 10),
        "student": nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10)),
        "device": "cpu",
    }
    for language, block in blocks_of(PAGES[page]):
        if language == "sh":
            for line in block.splitlines():
                run_shell(line)
        elif language == "json":
            TrainConfig.from_mapping({"labels": "labels.slc", "out": "run", **json.loads(block)})
        elif language == "python" and block != TEACHER and "import ray" not in block:  # one lies on the desk, for one see test_many_ray.py
            exec(compile(re.sub("s3://|hf://", "memory://", block), f"{page}.md", "exec"), names)
        elif language == "text":
            for words in re.findall(r"^(?:  )?((?:[\w/]+(?:\.py|/) +)+)", block, re.MULTILINE):
                for path in words.split():
                    assert (ROOT / path).exists() or (ROOT / "softlabel_codec" / path).exists(), path
    if page == "label":
        assert inspect("labels.slc").metadata["codec_choice"]["lost"] <= 0.04
    elif page == "python":
        assert names["reader"].codec == "marginal_smoothing:k=5"
        assert names["choice"].lost <= 0.04
    if "loss" in names:
        assert torch.isfinite(names["loss"])
    for out in {"label": ["labels.png"], "convert": ["imported.slc"], "prove": ["proof/compare.png"]}.get(page, []):
        assert (desk / out).exists()


def test_blocks_have_known_languages():
    assert {language for language, _ in BLOCKS} == {"sh", "python", "json", "text"}


def test_the_loop_of_the_readme_is_that_of_the_page_on_loops():
    loop, first = (next(block for language, block in blocks_of(PAGES[page]) if language == "python") for page in ("README", "train"))
    assert loop == first


def test_every_package_with_public_names_has_a_page():
    packages = {path.parent for path in (ROOT / "softlabel_codec").rglob("__init__.py") if "\n__all__" in path.read_text()}
    names = {".".join(package.relative_to(ROOT).parts) for package in packages}
    described = {re.search(r"^\.\. automodule:: (\S+)$", path.read_text(), re.MULTILINE)[1] for path in (ROOT / "docs" / "api").iterdir()}
    assert names - described == NOT_DESCRIBED


def anchors_of(text):
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        earlier = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", one) is not None for one in found)
        found.append(f"{anchor}-{earlier}" if earlier else anchor)
    return found


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        name, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path.read_text()), target


def test_snippets_satisfy_a_strict_type_checker(tmp_path):
    snippets = [block if block == TEACHER else PLACEHOLDERS + block for language, block in BLOCKS if language == "python"]
    paths = [tmp_path / f"snippet{number}.py" for number in range(len(snippets))]
    for path, snippet in zip(paths, snippets, strict=True):
        path.write_text(snippet)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(paths) > 5
    assert [line for line in errors if 'untyped function "backward"' not in line] == [], done.stderr  # torch's, which has no types


def test_the_times_of_reading_from_object_storage_are_those_of_the_committed_result():
    found = json.loads((ROOT / "benchmarks" / "results" / "storage.json").read_text())["stores"]["S3"]["20 ms"]
    ranges, cache = (1000 * found[way]["batch"]["seconds"]["median"] for way in ("ranges, one for each block", "cache"))
    assert f"took {ranges:.0f} ms from S3 with 20 ms of delay, and {cache:.0f} ms from the cache" in PAGES["share"]


def test_the_codec_strings_of_the_table_are_those_of_the_command_line():
    assert re.findall(r"^\| `(\S+)` \|", PAGES["codecs"], re.MULTILINE) == list(STRINGS)
    for codec in re.findall(r"--codec (\S+)", "".join(PAGES.values())):
        assert codec.strip("`,") in ("auto", "help") or Codec.parse(codec)


def test_the_picture_of_a_file_is_true():
    path = ROOT / "spec" / "vectors" / "valid" / "marginal_smoothing-k5.slc"
    data = path.read_bytes()
    head = 32 + struct.unpack_from("<I", data, 20)[0]
    starts = [0, 32, head, *struct.unpack_from("<4Q", data, len(data) - 112), len(data) - 112, len(data)]
    parts = ["header", "metadata", "block 0", "keys", "summary", "index", "copy", "trailer"]
    rows = [f"{start:>6} {end - start:>6}  {part} " for part, (start, end) in zip(parts, pairwise(starts), strict=True)]
    rows += [f"{16:>13}    head ", f"{starts[3] - head - 16:>13}    content ", f"{len(data):>6}\n```"]
    columns = {column.name: column.file_bytes for column in inspect(path).budget}
    columns["keys"] -= starts[4] - starts[3]  # the part of that name
    names = ["image sizes", "flips", "crops", "remainders", "indices", "values", "palettes", "keys"]
    rows += [f"{columns[name]:>13}      {name} " for name in names]
    assert all(f"\n{row}" in PAGES["format"] for row in rows), "expected these beginnings of lines:\n" + "\n".join(rows)


def test_the_numbers_are_those_of_the_committed_result():
    results = [path for path in (ROOT / "benchmarks" / "results").glob("*.json") if path.name[:2] == "20"]
    result = json.loads(max(results).read_text())
    fkd, k5, tail = "FKD .tar, f16", "marginal_smoothing:k=5", "marginal_smoothing:t=0.05,tail=100"
    storage, reading = result["storage"], result["reading"]["4000 images"]["microseconds_per_image"]
    size_of_fkd = storage["peers_bytes_per_crop"][fkd]
    stored, derived = ([storage["bytes_per_crop"][codec][crops] for codec in (k5, tail)] for crops in ("stored", "derived"))
    points = {point["codec"]: point["kl"] for family in result["distortion"]["families"].values() for point in family}
    ways = [fkd, *(f"read_batch, {codec}, derived" for codec in (k5, tail))]
    times = [f"{reading[way]['median']:.1f} us" for way in ways]

    def sizes(*numbers: float) -> list[str]:
        return [f"{number:.1f}" for number in numbers]

    def gigabytes(*numbers: float) -> list[str]:
        return [f"{number * 200 * storage['imagenet_images'] / 1e9:.1f} GB" for number in numbers]

    rows = [
        ("bytes per crop, with the coordinates of every crop", sizes(size_of_fkd, *stored)),
        ("bytes per crop, coordinates derived from the seed in the file", ["", *sizes(*derived)]),
        ("labels of ImageNet-1k, 200 crops each, with coordinates", gigabytes(size_of_fkd, *stored)),
        ("labels of ImageNet-1k, 200 crops each, derived", ["", *gigabytes(*derived)]),
        ("KL divergence from the teacher", [f"{points[codec]:.3f}" for codec in (f"{k5},values=f16", k5, tail)]),
        ("reading 4 crops of a random image of 4,000, in a batch", times),
    ]
    for name, cells in rows:
        assert f"| {name} | {' | '.join(cells)} |".replace("|  |", "| |") in README
    points = {point["codec"]: point["fidelity"] for family in result["distortion"]["families"].values() for point in family}
    for codec in (k5, tail):
        assert f"| `{codec}` | {' | '.join('{:.1%}'.format(at['lost']) for at in points[codec])} |" in PAGES["temperature"]
    lmdb = f"{storage['peers_bytes_per_crop']['LMDB + zstd-3']:.1f} bytes per crop", f"{reading['LMDB + zstd-3']['median']:.1f} us"
    assert f"takes {lmdb[0]} for the same five classes and is read in {lmdb[1]}:" in README
