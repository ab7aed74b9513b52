"""`import_labels` and `export_labels`: from what a user names to a format."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softlabel_codec.checks.arguments import check_choice
from softlabel_codec.errors import ArgumentError
from softlabel_codec.formats.array_files import ArraysSource
from softlabel_codec.formats.exporting import Exporter, ExportReport, export_source
from softlabel_codec.formats.fkd import FkdSource
from softlabel_codec.formats.importing import ImportReport, LabelSource, Sizes
from softlabel_codec.formats.npz import NpzFile
from softlabel_codec.formats.parquet.reading import ParquetSource
from softlabel_codec.formats.run import import_source
from softlabel_codec.formats.safetensors import SafetensorsFile
from softlabel_codec.formats.tinyvit import TinyVitSource, holds_tinyvit
from softlabel_codec.formats.webdataset import WebDatasetSource
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.storage.patterns import files_of, is_url, named_by

FKD, NPZ, SAFETENSORS, PARQUET, WEBDATASET, TINYVIT = FORMATS = ("fkd", "npz", "safetensors", "parquet", "webdataset", "tinyvit")
EXPORTED = (FKD, NPZ, SAFETENSORS, PARQUET, WEBDATASET)
SUFFIXES = {".npz": NPZ, ".safetensors": SAFETENSORS, ".parquet": PARQUET, ".tar": WEBDATASET}
_PICKLES = (".pt", ".pth", ".pkl", ".pickle")


def import_labels(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str | None = None,
    label_type: str | None = None,
    num_classes: int | None = None,
    codec: str | None = None,
    images: str | os.PathLike[str] | None = None,
    on_error: str = "fail",
    workers: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Convert label files of another project. After an interruption, the same call continues where it stopped. No code in files is run.

    What is found, and what will be lost, is logged before the work begins.

    Parameters
    ----------
    source : path
        A file or folder; of `parquet` and `webdataset` also a pattern, such as `labels-{000..146}.tar` or `*.parquet`, or a URL.
    out : path
        Container file to write.
    format : str, optional
        One of `FORMATS`; by default it is found out by the name and what is there.
    label_type : str, optional
        What FKD's generator was told to write, which its files do not say: for them only, and needed unless the name of a folder says it.
    num_classes : int, optional
        C; needed where files do not say it: `tinyvit`, and top classes without it. 1000 by default for `fkd`.
    codec : str, optional
        Store the labels in another codec. By default their numbers are kept exactly.
    images : path, optional
        The image folder, for crops that are fractions: they are then converted back to exact pixels.
    on_error : str
        What to do with an image whose labels cannot be read: `fail` or `skip`.
    workers : int
        Processes that convert, besides this one; 0: this one does. The file is the same for any number. They are started anew, so a script
        that asks for them needs `if __name__ == "__main__":`.
    overwrite : bool
        Replace `out`, and discard an unfinished one that was started with other arguments.
    progress : callable, optional
        Called with the number of images done so far and in all.

    Returns
    -------
    ImportReport
        What was converted, lost and repaired.

    Raises
    ------
    ArgumentError
        If the format cannot be found out, or an argument is invalid.
    CorruptError, MismatchError
        If a file is damaged or holds something else, and `on_error` is `fail`; if an image is missing or of another size.

    Examples
    --------
    >>> import numpy as np, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> probs = np.full((1, 2, 4), 0.25, np.float32)  # 1 image of 2 crops, 4 classes
    >>> np.savez(folder / "a.npz", keys=["a.jpg"], probs=probs, crops=np.float32([[[0, 0, 1, 1], [0, 0, 0.5, 0.5]]]))
    >>> import_labels(folder / "a.npz", folder / "a.slc").codec
    'dense'
    """
    name = os.fspath(source)
    if not is_url(name) and not set(name) & set("*?[{") and not Path(name).exists():
        raise ArgumentError(f"{name}: does not exist")
    format = format or detect(name)
    check_choice("format", format, FORMATS)
    if label_type is not None and format != FKD:
        raise ArgumentError(f"label_type: is for files of FKD, which do not say it; {format} files do")
    found = _opened(name, format, label_type, num_classes, on_error == "skip")
    sizes = None if images is None else _sizes(images, format)
    options: dict[str, Any] = {"on_error": on_error, "workers": workers, "overwrite": overwrite, "progress": progress}
    return import_source(found, out, codec=codec, sizes=sizes, **options)


def export_labels(
    labels: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str | None = None,
    dense: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write labels in a format that others read. Files appear when they are complete.

    Parameters
    ----------
    labels : path or URL
        Label file or set.
    out : path
        File to write: `.npz`, `.safetensors`, `.parquet` or `.tar`. Several shards are named by a range: `labels-{000..015}.tar`.
        Of `fkd` the folder to write, named as that of the images, `train`: FKD's loader looks for it in its `--softlabel_path`.
    format : str, optional
        One of `EXPORTED`; by default the one that the name says.
    dense : bool
        Write the targets of all classes in place of what is stored, as labels with tails and label fields require.
    overwrite : bool
        Replace files that are there. A folder is never replaced.
    progress : callable, optional
        Called with the number of images done so far and in all.

    Returns
    -------
    ExportReport
        What was written and lost.

    Raises
    ------
    ArgumentError
        If the format cannot say what is stored, or an argument is invalid.
    MismatchError
        If two images would have one name in the format.
    FileExistsError
        If a file is there and `overwrite` is not set.
    """
    name = os.fspath(out)
    if format is None:
        format = SUFFIXES.get(Path(name).suffix)
        if format is None:
            raise ArgumentError(f"{name}: expected a name that ends in {', '.join(SUFFIXES)}, or a format")
    check_choice("format", format, EXPORTED)
    if format == FKD and Path(name).exists():
        raise FileExistsError(17, "exists; a folder of label files is written to a new place, or remove it first", name)
    outs = [Path(path) for path in named_by(name)]
    if len(outs) > 1 and format not in (WEBDATASET, PARQUET):
        raise ArgumentError(f"{name}: several files are written of webdataset and parquet only")
    with SoftLabelReader(labels) as reader:
        return export_source(Exporter(reader, dense), outs, format, name=name, overwrite=overwrite, progress=progress)


def detect(source: str) -> str:
    """Return the format of label files; ArgumentError if it cannot be found out."""
    path = Path(source)
    if path.is_dir():
        return _of_folder(path)
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix]
    if path.suffix in _PICKLES:
        raise ArgumentError(f"{source}: files like this are pickles, which can run code. Save the arrays as .npz: numpy.savez(...)")
    raise ArgumentError(f"{source}: expected a folder, or a file that ends in {', '.join(SUFFIXES)}. Say what it is (--from)")


def _of_folder(folder: Path) -> str:
    if holds_tinyvit(folder):
        return TINYVIT
    if next(folder.glob("*.parquet"), None) is not None:
        return PARQUET
    shard = next(folder.glob("*.tar"), None)
    if shard is not None and shard.is_file() and tarfile.is_tarfile(shard):
        return WEBDATASET
    if next(folder.rglob("*.tar"), None) is not None:
        return FKD
    raise ArgumentError(f"{folder}: expected label files of {', '.join(FORMATS)} in this folder, found none. Say what it is (--from)")


def _opened(source: str, format: str, label_type: str | None, num_classes: int | None, skips_errors: bool) -> LabelSource:
    path = Path(source)
    if format == FKD:
        return FkdSource(source, label_type, num_classes or 1000, skips_errors)
    if format == TINYVIT:
        if num_classes is None:
            raise ArgumentError(f"{source}: num_classes: TinyViT's files do not say it: pass it (--num-classes), 21841 for ImageNet-22k")
        if not path.is_dir():
            raise ArgumentError(f"{source}: expected a folder of TinyViT's, got something else")
        return TinyVitSource(path, num_classes)
    if format == PARQUET:
        return ParquetSource(files_of(_in_folder(source, "*.parquet")), num_classes)
    if format == WEBDATASET:
        return WebDatasetSource(files_of(_in_folder(source, "*.tar")), num_classes)
    return ArraysSource(NpzFile(path) if format == NPZ else SafetensorsFile(path), num_classes)


def _in_folder(source: str, pattern: str) -> str:
    return os.path.join(source, pattern) if Path(source).is_dir() else source


def _sizes(images: str | os.PathLike[str], format: str) -> Sizes:
    from softlabel_codec.formats.image_sizes import ImageSizes  # noqa: PLC0415  imports Pillow

    return ImageSizes(images, 2 if format == FKD else 0)
