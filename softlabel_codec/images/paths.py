"""Image files in folders: finding them, and their keys, which are their paths in the folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from softlabel_codec.errors import ArgumentError, MismatchError

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """Return the keys of all images in a folder and its subfolders: relative paths with `/`, in ascending order.

    Links are followed; broken links are listed too. Hidden files and folders, and files without the extension of an image, are
    left out.

    Raises
    ------
    ArgumentError
        If there is no such folder, it holds no images, or a name is not valid text.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ArgumentError(f"{root}: expected a folder of images, got {'a file' if root.exists() else 'nothing there'}")
    keys = sorted(key_of_path(root, path) for path in _walk(root) if _is_image(path))
    if not keys:
        raise ArgumentError(f"{root}: expected images ({', '.join(SUFFIXES)}) in this folder or below it, found none")
    return keys


def list_others(folder: str | os.PathLike[str]) -> list[str]:
    """Return the relative paths of the files that `list_images` leaves out because of their extension."""
    root = Path(folder)
    return sorted(text_of_path(path.relative_to(root)) for path in _walk(root) if not _is_image(path))


def key_of_path(root: Path, path: Path) -> str:
    """Return the key of a file below a folder; ArgumentError if its name is not valid UTF-8, which means the same in every locale."""
    relative = path.relative_to(root)
    try:
        return os.fsencode(relative.as_posix()).decode()
    except UnicodeDecodeError:
        raise ArgumentError(f"{root}: the file name {text_of_path(relative)!r} is not valid UTF-8; rename it") from None


def text_of_path(path: os.PathLike[str] | str) -> str:
    """Return a path as text that every file takes, whatever the locale; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _walk(folder: Path, seen: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Yield all files that are not hidden, and broken links, which count as unreadable files."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:  # a link back to a folder on the way here
        return
    seen = seen | {(status.st_dev, status.st_ino)}
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, seen)
        elif entry.is_file() or entry.is_symlink():
            yield entry


class Stems:
    """Finds file names by their stem, the name without its extension.

    Parameters
    ----------
    names : iterable of str
        Relative paths.
    parts : int, optional
        Number of path components at the end that make up a stem; all if not given.
    """

    def __init__(self, names: Iterable[str], parts: int = 0) -> None:
        self._names: dict[str, list[str]] = {}
        for name in names:
            stem = "/".join(PurePosixPath(name).with_suffix("").parts[-parts:])
            self._names.setdefault(stem, []).append(name)

    def find(self, stem: str) -> str | None:
        """Return the name with that stem, or None; MismatchError if there are several."""
        names = self._names.get(stem, [])
        if len(names) > 1:
            raise MismatchError(f"the key {stem!r} matches several images: {', '.join(sorted(names)[:3])}: keep only one of them")
        return names[0] if names else None


def subfolder_of_keys(names: Iterable[str], keys: Sequence[str]) -> str | None:
    """Return the subfolder below which all images of these keys lie (with or without extensions); None if there is none."""
    there = {form for name in names for form in (name, PurePosixPath(name).with_suffix("").as_posix())}
    ending = f"/{keys[0]}"
    folders = sorted(name.removesuffix(ending) for name in there if name.endswith(ending))
    return next((folder for folder in folders if all(f"{folder}/{key}" in there for key in keys)), None)


def path_of_key(root: Path, key: str) -> Path:
    """Return the path that a key names below a folder; MismatchError if it leads outside."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or "\0" in key or not path.parts:
        raise MismatchError(f"the key {key!r} is not a path inside an image folder")
    return root / os.fsdecode(key.encode())
