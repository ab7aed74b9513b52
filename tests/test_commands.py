"""The command line as such: whatever is given counts, messages are true, output goes where it should, wherever it is started."""

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from conftest import write_labels

from softlabel_codec import SoftLabelReader, SoftLabelWriter
from softlabel_codec.cli import output
from softlabel_codec.cli.codecs import OPTIONS, STRINGS
from softlabel_codec.cli.main import SECTIONS, main
from softlabel_codec.cli.output import progress_bar
from softlabel_codec.codec import CONTENTS, STRATEGIES, VALUES, Codec


@pytest.fixture
def labels(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[150, 200, 40, 7])
    return tmp_path / "a.slc"


def run(*arguments, code=0):
    """Run a command, check its exit code and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def all_commands(command=main, name="slcodec"):
    """Yield every command with its full name."""
    yield name, command
    for part, member in getattr(command, "commands", {}).items():
        yield from all_commands(member, f"{name} {part}")


COMMANDS = dict(all_commands())
SINGLE = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.multiple and not (option.is_flag and not option.secondary_opts)
]


def spelled(option: click.Option) -> list[str]:
    """Return an option with a value that it takes."""
    value = option.type.choices[0] if isinstance(option.type, click.Choice) else "1"
    return [option.opts[0]] if option.is_flag else [option.opts[0], *[str(value)] * option.nargs]


def test_the_first_screen_lists_every_command_once_and_whole():
    listed = [command.name for commands in SECTIONS.values() for command in commands]
    assert sorted(listed) == sorted(main.commands)
    text = main.get_help(click.Context(main, terminal_width=78))
    assert "..." not in text.partition("[ARGS]...")[2]
    for title, commands in SECTIONS.items():
        assert f"\n{title}:\n" in text
        assert all(f"\n  {command.name} " in text for command in commands)


@pytest.mark.parametrize(("name", "option"), SINGLE, ids=lambda value: getattr(value, "name", value))
def test_an_option_that_is_given_twice_is_an_error(name, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").touch()
    words = spelled(option)
    done = CliRunner().invoke(main, [*name.split()[1:], *words, *words])
    assert done.exit_code == 2
    assert f"Option '{option.opts[0]}'" in done.output
    assert "more than once" in done.output


def test_the_opposite_of_an_option_counts_as_the_same():
    assert "more than once" in run("train", "--nesterov", "--no-nesterov", code=2)
    assert "more than once" not in run("verify", "nowhere.slc", "--deep", "--deep", code=2)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_change_nothing(labels, closed):
    damaged = labels.with_name("damaged.slc")
    data = bytearray(labels.read_bytes())
    data[-300] ^= 1
    damaged.write_bytes(data)
    for command, status in ((f"verify {labels} --deep", 0), (f"verify {damaged}", 1), (f"inspect {labels}", 0), (f"stats {labels}", 0)):
        line = f"exec {sys.executable} -m softlabel_codec {command} {closed}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == status, (command, done)
        assert "Traceback" not in done.stdout + done.stderr


def test_no_file_is_opened_under_the_number_of_a_closed_stream(labels, tmp_path):
    code = "import os, sys; from softlabel_codec.cli.main import main\n"
    code += "try: main(['verify', sys.argv[1]])\n"
    code += "except SystemExit: os._exit(os.open(sys.argv[1], os.O_RDONLY))"
    done = subprocess.run(["bash", "-c", f'exec {sys.executable} -c "{code}" {labels} 0<&- 1>&- 2>&-'], check=False)
    assert done.returncode > 2


def test_what_an_output_cannot_spell_does_not_end_a_command(tmp_path):
    write_labels(tmp_path / "a.slc", keys=["ä", "b", "c", "d"], metadata={"teacher": "日本"})
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for command in ("inspect", "stats", "verify"):
        line = [sys.executable, "-m", "softlabel_codec", command, str(tmp_path / "a.slc")]
        done = subprocess.run(line, capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(output, "time", clock)
    return clock


def test_a_log_hears_about_every_half_minute_how_far_it_is(clock, capsys):
    with progress_bar("image") as progress:
        for done in range(100, 2101, 2):  # 100 by an earlier run, then two a second
            progress(done, 100_000)
            clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 33
    assert lines[0] == "slcodec: 160 of 100000 images (0%), 2.0 images/s, 13 h 52 min left"
    assert lines[-1] == "slcodec: 2080 of 100000 images (2%), 2.0 images/s, 13 h 36 min left"


def test_lines_for_slow_and_for_nearly_finished_work(clock, capsys):
    with progress_bar("file") as progress:
        clock.now += 40  # before the first is begun
        progress(0, 10)
        clock.now += 100
        progress(1, 10)
        clock.now += 400
        progress(9, 10)
    assert capsys.readouterr().err.splitlines() == [
        "slcodec: 0 of 10 files (0%)",
        "slcodec: 1 of 10 files (10%), 0.01 files/s, 15 min left",
        "slcodec: 9 of 10 files (90%), 0.018 files/s, 56 s left",
    ]


def test_quiet_stops_it(labels, monkeypatch):
    monkeypatch.setattr(output, "SECONDS_BETWEEN_LINES", 0.0)
    assert "slcodec: 4 of 4 blocks (100%)" in run("verify", labels)
    assert "slcodec:" not in run("verify", labels, "--quiet")
    assert "slcodec:" in run("verify", labels, "--json")  # on stderr, which is not where JSON goes


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not isinstance(command, click.Group)])
def test_every_command_that_shows_progress_can_be_quiet(name):
    command = COMMANDS[name]
    if "progress_bar" in command.callback.__code__.co_names:
        assert any("--quiet" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize("word", ["help", "--help"])
@pytest.mark.parametrize("command", [["encode"], ["import", "fkd"], ["copy"]])
def test_the_codec_strings_are_listed(command, word):
    text = run(*command, "--codec", word)
    assert all(codec in text for codec in STRINGS)
    assert run(*command, f"--codec={word}", "nowhere", "out.slc") == text


def test_the_list_of_codec_strings_is_complete():
    codecs = [Codec.parse(text) for text in STRINGS]
    assert {codec.name for codec in codecs} == set(STRATEGIES)
    assert {option.partition("=")[0] for option in OPTIONS} == {name for strategy in STRATEGIES.values() for name in strategy.options}
    for word in {word for words in VALUES.values() for word in words} - {"none"} | set(CONTENTS):
        assert any(word in text for text in (*OPTIONS, *OPTIONS.values())), word


@pytest.mark.parametrize("arguments", [("recover", "{labels}"), ("stats", "{labels}", "--plot")])
def test_a_folder_that_is_missing_is_named_before_the_work_begins(labels, arguments):
    text = run(*(part.format(labels=labels) for part in arguments), labels.parent / "nodir" / "e.slc", code=2)
    assert f"the folder '{labels.parent / 'nodir'}' does not exist" in " ".join(text.split())


def test_recovering_nothing_is_an_error_and_writes_nothing(labels, tmp_path):
    begun = tmp_path / "begun.slc.partial"
    SoftLabelWriter(tmp_path / "begun.slc", 3, "hard").close()
    with SoftLabelReader(labels) as reader:
        starts = reader.container.index.starts.tolist()
    damaged = bytearray(labels.read_bytes())
    for start in starts[:-1]:
        damaged[start + 30] ^= 1
    (tmp_path / "damaged.slc").write_bytes(damaged)
    kept = tmp_path / "kept.slc"
    kept.write_bytes(b"somebody's")
    for source in (begun, tmp_path / "damaged.slc"):
        there = sorted(tmp_path.iterdir())
        assert f"{source}: holds no complete block. Nothing was written" in run("recover", source, tmp_path / "new.slc", code=1)
        run("recover", source, kept, "--overwrite", code=1)
        assert sorted(tmp_path.iterdir()) == there
    assert kept.read_bytes() == b"somebody's"


def test_one_is_not_spoken_of_as_many(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[1])
    assert "sound: 1 image in 1 block" in run("verify", tmp_path / "a.slc")
    assert "1 crop of 1 of 1 image" in run("stats", tmp_path / "a.slc")
    assert "in 1 block\n" in run("inspect", tmp_path / "a.slc")
    assert "1 image in 1 block; 0 images in damaged blocks" in run("recover", tmp_path / "a.slc", tmp_path / "b.slc")
    (tmp_path / "a.slc").write_bytes(b"nonsense")
    assert ": 1 problem; 0 images in 0 blocks checked" in run("verify", tmp_path / "a.slc", code=1)
