"""The fuzz targets on their kept inputs, and a short run of each with libFuzzer where there is atheris."""

import importlib.util

import pytest
from fuzz import corpus, import_files, limits
from fuzz import run as runner
from fuzz.targets import TARGETS

SHORT_RUNS = 200
EACH_TARGET = [pytest.param(target, marks=pytest.mark.torch if target in ("fkd", "imports") else ()) for target in TARGETS]
MAX_CORPUS_INPUTS, MAX_CORPUS_BYTES = 200, 150_000


def test_every_target_has_a_corpus_and_a_runner():
    assert tuple(TARGETS) == runner.TARGETS == tuple(runner.MAX_INPUT_BYTES)
    for target in TARGETS:
        sizes = [len(data) for data in corpus.kept_inputs(target).values()]
        assert 1 <= len(sizes) <= MAX_CORPUS_INPUTS
        assert sum(sizes) <= MAX_CORPUS_BYTES
        assert max(sizes) <= runner.MAX_INPUT_BYTES[target]


@pytest.mark.parametrize("target", EACH_TARGET)
def test_kept_inputs(target):
    """Inputs that once reached something new, and those that once were crashes."""
    fixed = {str(path.relative_to(runner.HERE.parents[1])): path.read_bytes() for path in runner.fixed_inputs(target)}
    for name, data in (corpus.kept_inputs(target) | fixed).items():
        try:
            TARGETS[target](data)
        except BaseException as error:
            error.add_note(f"tests/fuzz/run.py {target} --replay {name}")
            raise


@pytest.mark.parametrize(
    "format",
    [pytest.param(name, marks=[pytest.mark.torch] if name in import_files.WRITTEN_BY_TORCH else []) for name in import_files.FORMATS],
)
@pytest.mark.parametrize("codec", range(len(import_files.CODECS)))
def test_what_the_imports_begin_with_is_sound(format, codec):
    assert import_files.read(bytes([import_files.FORMATS.index(format), codec]))


def test_the_archive_of_kept_inputs_is_written_as_it_was(tmp_path, monkeypatch):
    archive = tmp_path / "corpus.zip"
    archive.write_bytes(corpus.ARCHIVE.read_bytes())
    monkeypatch.setattr(corpus, "ARCHIVE", archive)
    before, header, block = archive.read_bytes(), corpus.kept_inputs("header"), corpus.kept_inputs("block")
    corpus.replace_inputs("header", {"new": b"input"})
    assert corpus.kept_inputs("header") == {"new": b"input"}
    assert corpus.kept_inputs("block") == block
    corpus.replace_inputs("header", header)
    assert archive.read_bytes() == before


@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 40], ids=["empty", "zero", "ones"])
def test_any_bytes_will_do(target, data):
    TARGETS[target](data)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="there is no atheris for this Python or platform")
@pytest.mark.parametrize("target", EACH_TARGET)
def test_a_short_run(target):
    report = runner.run(target, runs=SHORT_RUNS)
    assert report.crashes == ()
    assert report.runs >= SHORT_RUNS


def test_what_takes_too_long_is_noticed(monkeypatch):
    monkeypatch.setattr(limits, "MAX_CPU_SECONDS", 0.0)
    with pytest.raises(limits.TooSlowError, match="a sum: expected at most 0 s"), limits.within_a_second("a sum"):
        sum(range(10**5))
