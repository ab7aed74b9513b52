"""What must hold after a run ended anyhow: nothing half under the final name, and nothing lost of what was written whole."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crashes.unbroken import NOTHING, RENAMED, STATES, Unbroken, check_contents, contents, write
from softlabel_codec import FormatError, SoftLabelReader, TruncatedError, recover
from softlabel_codec.container.files import partial_path
from softlabel_codec.report import verify


@dataclass(frozen=True)
class Aftermath:
    """What was found and done after a run ended anyhow.

    Attributes
    ----------
    state : str
        How far the run had come; one of `STATES`.
    refused, recovered, resumed : bool
        Whether a reader refused an unfinished file, `recover` gave its whole blocks, and a second run ended with the bytes of an
        unbroken one. Each is False only where there was nothing to refuse, recover or resume.
    """

    state: str
    refused: bool = False
    recovered: bool = False
    resumed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of many runs that ended before they should.

    Attributes
    ----------
    runs : int
        All of them.
    states : dict
        How far they had come, and how many of them.
    refused_unfinished, recovered_exactly, resumed_to_same_bytes : int
        As in `Aftermath`.
    failed, succeeded : int
        Runs that ended with an error, and runs that a fault did not keep from succeeding; the others were killed.
    """

    runs: int
    states: dict[str, int]
    refused_unfinished: int
    recovered_exactly: int
    resumed_to_same_bytes: int
    failed: int = 0
    succeeded: int = 0

    @classmethod
    def of(cls, aftermaths: list[Aftermath], failed: int = 0, succeeded: int = 0) -> Outcome:
        """Return the sum of what was found after each run."""
        found = Counter(aftermath.state for aftermath in aftermaths)
        sums = [sum(getattr(aftermath, name) for aftermath in aftermaths) for name in ("refused", "recovered", "resumed")]
        return cls(len(aftermaths), {state: found[state] for state in STATES}, *sums, failed, succeeded)


def check_aftermath(path: Path, unbroken: Unbroken, *, old: bytes | None = None, resume: bool = True) -> Aftermath:
    """Check all that must hold after a run ended anyhow, and leave the folder as it was.

    Parameters
    ----------
    path : path
        The file that was to be.
    unbroken : Unbroken
        What it would have been.
    old : bytes, optional
        The finished file that was there before and was to be replaced.
    resume : bool
        Also resume the run, on a copy.
    """
    partial = partial_path(path)
    found = path.read_bytes() if path.exists() else None
    if found is not None and found == unbroken.data:
        assert not partial.exists(), f"{path}: is finished, but {partial.name} is still there"
        return Aftermath(RENAMED)
    assert found == old, f"{path}: holds {len(found or b'')} bytes that no unbroken run leaves there"
    if not partial.exists():
        return Aftermath(NOTHING)
    data = partial.read_bytes()
    assert unbroken.data.startswith(data), f"{partial}: its {len(data)} bytes are not the first of an unbroken run"
    refused = data != unbroken.data
    if refused:
        check_refused(partial, unbroken)
    recovered = check_recovery(partial, unbroken, unbroken.whole_blocks(len(data)))
    if resume:
        check_resume(partial, unbroken)
    return Aftermath(unbroken.state(len(data)), refused, recovered, resume)


def check_refused(partial: Path, unbroken: Unbroken) -> None:
    """Check that a reader says of a file that it is not finished."""
    clear = "ends within" if partial.stat().st_size < unbroken.block_ends[0] else "an unfinished file"
    message = _refusal(partial)
    assert message, f"{partial}: a reader takes an unfinished file for a finished one"
    assert str(partial) in message, f"expected a message that names {partial}, got {message}"
    assert clear in message, f"expected a message with {clear!r}, got {message}"


def _refusal(path: Path) -> str:
    """Return what a reader says of a file that ends too early, or nothing."""
    try:
        SoftLabelReader(path).close()
    except TruncatedError as error:
        return str(error)
    return ""


def check_recovery(partial: Path, unbroken: Unbroken, whole_blocks: int) -> bool:
    """Check that exactly the first blocks are recovered from an unfinished file, if anything can be."""
    before = partial.read_bytes()
    target = partial.with_name("recovered.slc")
    if len(before) < unbroken.block_ends[0]:
        with suppress(FormatError):
            recover(partial, target)
            raise AssertionError(f"{partial}: recovered without header and metadata")
    else:
        result = recover(partial, target)
        assert result.num_blocks == whole_blocks, f"{partial}: {result.num_blocks} blocks recovered, {whole_blocks} are whole"
        check_first_images(target, unbroken, unbroken.first_images[whole_blocks])
        target.unlink()
    assert partial.read_bytes() == before, f"{partial}: changed by recover"
    left = [path.name for path in partial.parent.glob("recovered*")]
    assert not left, f"recover left {left} behind"
    return len(before) >= unbroken.block_ends[0]


def check_first_images(path: Path, unbroken: Unbroken, num_images: int) -> None:
    """Check that a file is sound and holds the first images of an unbroken run, with the same labels."""
    report = verify(path, deep=True)
    assert report.ok, f"{path}: what was recovered is not sound: {report.problems}"
    with SoftLabelReader(path) as reader:
        assert list(reader.keys) == unbroken.keys[:num_images], f"{path}: expected the first {num_images} images, got {len(reader)}"
        check_contents(contents(reader), unbroken.labels[:num_images], path)


def check_resume(partial: Path, unbroken: Unbroken, **options: Any) -> None:
    """Check that a second run over a copy of an unfinished file ends with the bytes of an unbroken one."""
    again = partial.with_name("again.slc")
    shutil.copyfile(partial, partial_path(again))
    write(again, unbroken.images, **{"resume": True, **options})
    assert again.read_bytes() == unbroken.data, f"{partial}: a resumed run ends with other bytes than an unbroken one"
    assert not partial_path(again).exists(), f"{again}: finished, but its temporary file is still there"
    again.unlink()
