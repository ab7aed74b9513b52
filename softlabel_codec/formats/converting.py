"""`import_labels` and `export_labels`: from what a user names to a format."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softlabel_codec.checks.arguments import check_choice, check_temperature
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

FKD, NPZ, SAFETENSORS, PARQUET, WEBDATASET = "fkd", "npz", "safetensors", "parquet", "webdataset"
TINYVIT, SRE2L, ML_DR, MOBILECLIP, RELABEL = "tinyvit", "sre2l", "ml_dr", "mobileclip_dr", "relabel"
FORMATS = (FKD, NPZ, SAFETENSORS, PARQUET, WEBDATASET, TINYVIT, SRE2L, ML_DR, MOBILECLIP, RELABEL)
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
    crops: int | None = None,
    crops_of: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    temperature: float | None = None,
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
        A file or folder; of `parquet`, `webdataset` and `mobileclip_dr` also a pattern, such as `labels-{00..46}.tar` or `*.parquet`, or a
        URL.
    out : path
        Container file to write.
    format : str, optional
        One of `FORMATS`; by default it is found out by the name and what is there.
    label_type : str, optional
        What FKD's generator was told to write, which its files do not say: needed unless the name of a folder says it. Of `relabel`,
        `swapped`: pool maps with axes exchanged, as ReLabel's training code does. For others there is none.
    num_classes : int, optional
        C; needed where files do not say it: `tinyvit`, and top classes without it. 1000 by default for `fkd` and `relabel`.
    codec : str, optional
        Store the labels in another codec. By default their numbers are kept exactly.
    images : path, optional
        The image folder, for crops that are fractions: they are then converted back to exact pixels. Needed for `sre2l` and `relabel`,
        whose files do not name images, and for crops of `ml_dr`.
    crops, seed : int, optional
        Of `relabel`: how many crops of each image get labels, by default 200, and the seed of their sampler, by default 0. Of `sre2l`: the
        seed by which images were drawn, by default 42.
    crops_of : path, optional
        Of `relabel`: a label file or set whose crops get labels, to compare both, in place of crops of our sampler. No images are needed.
    temperature : float, optional
        Of `sre2l`, if it has the largest logits only: T of softmax(logits / T), by default 1. It cannot be changed afterwards.
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
    given = _Given(name, format, label_type, num_classes, images, crops, crops_of, seed, temperature, on_error == "skip")
    options: dict[str, Any] = {"on_error": on_error, "workers": workers, "overwrite": overwrite, "progress": progress}
    with ExitStack() as files:
        found = given.opened(files)
        sizes = None if images is None or format == RELABEL else _sizes(images, format)
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
    if next(folder.glob("epoch_*/batch_0.tar"), None) is not None or (folder / "batch_0.tar").is_file():
        return SRE2L
    if (folder / "config.pth.tar").is_file():
        return ML_DR
    if next(folder.glob("*.parquet"), None) is not None:
        return PARQUET
    shard = next(folder.glob("*.tar"), None)
    if shard is not None and shard.is_file() and tarfile.is_tarfile(shard):
        return WEBDATASET
    if next(folder.rglob("*.tar"), None) is not None:
        return FKD
    if next(folder.glob("*/*.pt"), None) is not None:
        return RELABEL
    raise ArgumentError(f"{folder}: expected label files of {', '.join(FORMATS)} in this folder, found none. Say what it is (--from)")


@dataclass(frozen=True)
class _Given:
    """What `import_labels` was given."""

    source: str
    format: str
    label_type: str | None
    num_classes: int | None
    images: str | os.PathLike[str] | None
    crops: int | None
    crops_of: str | os.PathLike[str] | None
    seed: int | None
    temperature: float | None
    skips_errors: bool

    def opened(self, files: ExitStack) -> LabelSource:
        """Return the source, whose open file is closed with `files`; ArgumentError if arguments do not apply to its format."""
        if self.label_type is not None and self.format not in (FKD, RELABEL):
            raise ArgumentError(f"label_type: is for files of FKD, which do not say it; {self.format} files do")
        if self.crops_of is not None and (self.format != RELABEL or {self.crops, self.seed, self.images} != {None}):
            raise ArgumentError(
                f"crops_of: is for maps of ReLabel, without crops, seed or images, which the label file has; got {self.format}"
            )
        if self.crops is not None and self.format != RELABEL:
            raise ArgumentError(f"crops: is for maps of ReLabel, of which labels of crops are made; {self.format} files have theirs")
        if self.seed is not None and self.format not in (RELABEL, SRE2L):
            raise ArgumentError(f"seed: is for relabel and sre2l, not for {self.format} files")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ArgumentError(f"seed: expected 0 to 2^64 - 1, got {self.seed}")
        if self.images is not None and self.format == MOBILECLIP:
            raise ArgumentError("images: crops of mobileclip_dr are read if the shards hold the images: expected no folder of images")
        if self.temperature is not None:
            check_temperature(self.temperature)
            if self.format != SRE2L:
                raise ArgumentError(f"temperature: is for sre2l only, got {self.temperature} for {self.format}")
        path = Path(self.source)
        if self.format == FKD:
            return FkdSource(self.source, self.label_type, self.num_classes or 1000, self.skips_errors)
        if self.format in (SRE2L, ML_DR, MOBILECLIP, RELABEL):
            return self._read_with_torch(path)
        if self.format == TINYVIT:
            if self.num_classes is None:
                what = "TinyViT's files do not say it: pass it (--num-classes), 21841 for ImageNet-22k"
                raise ArgumentError(f"{self.source}: num_classes: {what}")
            return TinyVitSource(self._folder("TinyViT"), self.num_classes)
        if self.format == PARQUET:
            return ParquetSource(files_of(_in_folder(self.source, "*.parquet")), self.num_classes)
        if self.format == WEBDATASET:
            return WebDatasetSource(files_of(_in_folder(self.source, "*.tar")), self.num_classes)
        return ArraysSource(files.enter_context(NpzFile(path)) if self.format == NPZ else SafetensorsFile(path), self.num_classes)

    def _read_with_torch(self, path: Path) -> LabelSource:
        from softlabel_codec.formats import ml_dr, mobileclip_dr, relabel, sre2l  # noqa: PLC0415  import torch

        if self.format == MOBILECLIP:
            return mobileclip_dr.MobileClipSource(files_of(_in_folder(self.source, "*.tar")), self.num_classes)
        if self.format == ML_DR:
            return ml_dr.MlDrSource(self._folder("ml-dr"), self.images, self.num_classes)
        if self.images is None and self.crops_of is None:
            raise ArgumentError(f"{self.source}: images: {self.format} files do not name their images: pass the folder of these (--images)")
        if self.format == SRE2L:
            seed = sre2l.SEED if self.seed is None else self.seed
            return sre2l.Sre2lSource(self._folder("SRe2L"), self.images, self.num_classes, seed, self.temperature or 1.0)
        if self.label_type not in (None, *relabel.LABEL_TYPES):
            raise ArgumentError(f"label_type: expected {' or '.join(relabel.LABEL_TYPES)} for relabel, got {self.label_type!r}")
        return relabel.RelabelSource(
            self._folder("ReLabel"),
            self.images,
            relabel.NUM_CROPS if self.crops is None else self.crops,
            self.seed or 0,
            self.num_classes or relabel.NUM_CLASSES,
            self.label_type == relabel.SWAPPED,
            self.crops_of,
        )

    def _folder(self, project: str) -> Path:
        if not Path(self.source).is_dir():
            raise ArgumentError(f"{self.source}: expected a folder of {project}'s, got something else")
        return Path(self.source)


def _in_folder(source: str, pattern: str) -> str:
    return os.path.join(source, pattern) if Path(source).is_dir() else source


def _sizes(images: str | os.PathLike[str], format: str) -> Sizes:
    from softlabel_codec.formats.image_sizes import ImageSizes  # noqa: PLC0415  imports Pillow

    return ImageSizes(images, 2 if format == FKD else 0)
