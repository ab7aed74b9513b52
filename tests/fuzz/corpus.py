"""The kept inputs of the fuzz targets, all in one archive.

`corpus.zip` holds TARGET/NAME for each, without compression and without dates: the same inputs make the same bytes everywhere, and git
stores what two versions have in common only once. NAME is libFuzzer's, the SHA-1 of the input.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

ARCHIVE = Path(__file__).with_name("corpus.zip")


def kept_inputs(target: str) -> dict[str, bytes]:
    """Return the kept inputs of a target by name, in the order of their names."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist() if name.startswith(f"{target}/")}


def unpack(target: str, folder: Path) -> None:
    """Write the kept inputs of a target into a folder, a file each."""
    for name, data in kept_inputs(target).items():
        (folder / name).write_bytes(data)


def replace_inputs(target: str, inputs: Mapping[str, bytes]) -> None:
    """Make these the kept inputs of a target; those of other targets stay as they are."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        entries = {name: archive.read(name) for name in archive.namelist() if not name.startswith(f"{target}/")}
    entries |= {f"{target}/{name}": data for name, data in inputs.items()}
    new = ARCHIVE.with_suffix(".new")
    write_archive(new, entries)
    new.replace(ARCHIVE)


def write_archive(path: Path, entries: Mapping[str, bytes]) -> None:
    """Write an archive of these entries whose bytes depend on nothing else."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name)  # dated 1980, as zip files without a date are
            entry.create_system = 3  # Unix, on every system
            archive.writestr(entry, entries[name])
