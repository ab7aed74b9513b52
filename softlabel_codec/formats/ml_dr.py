"""Labels of ImageNet+ and other reinforced data sets of Apple's ml-dr (Faghri et al., ICCV 2023; `reinforce.py`): import only.

A folder with `config.pth.tar`, what `reinforce.py` was told, and `N.pth.tar` for image N: `(N, samples)`, pickled by `torch.save` with
protocol 4. A sample is `{"params": ..., "prob": (probabilities, classes)}` of the K most probable classes. Parameters are the crop in
pixels and whether it is mirrored; or also those of RandAugment, RandomErasing, MixUp and CutMix, which no list of boxes can say, so that
such labels are imported to be looked at.

ml-dr spreads what is left to 1 evenly, as `marginal_smoothing` does, if it is told `densify: smooth`. Where rounding makes that negative it
trains, without a word, with softmax(probabilities) of the kept classes and 0 for the others, as it always does with `densify: zeros`: the
softmax of probabilities is nearly uniform. Here, what is left is then 0.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from softlabel_codec.checks.limits import MAX_KEPT_CLASSES
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError
from softlabel_codec.formats.dr_augmentations import Augmentations
from softlabel_codec.formats.image_folders import image_folder_keys, share_in_own_folder
from softlabel_codec.formats.importing import NO_CROPS, PIXELS, Entry, Found, SourceImage
from softlabel_codec.formats.labels import INDICES, VALUES, Kind, checked
from softlabel_codec.formats.numpy_stand_ins import shown
from softlabel_codec.formats.plain_pickles import load_plain
from softlabel_codec.formats.torch_files import load_safely

CONFIG = "config.pth.tar"
WHY_SIZES = "crops are in pixels of images whose sizes are not known: pass the folder of the images (--images)"
_FILE = re.compile(r"(\d{1,9})\.pth\.tar")
_IN_FOLDERS = ("imagenet",)
"""Data sets that ml-dr reads as torchvision's ImageFolder, which gives images their numbers."""
_COMPARED = 256
_MOST_NAME = 1000
"""Characters of the names that are kept."""
_NEGATIVE = (
    "crops: probabilities of kept classes sum to more than 1, so that what is left was taken as 0; "
    "ml-dr's own code trains with their softmax there"
)


@dataclass(frozen=True)
class MlDrSource:
    """Stored labels of ml-dr.

    Attributes
    ----------
    folder : Path
        Where the files are.
    images : path or None
        The images that were labelled, in folders of their classes. Without them keys are numbers, and crops, in pixels, are not known.
    num_classes : int or None
        C, if the caller says it; by default what the configuration says.
    """

    folder: Path
    images: Any = None
    num_classes: int | None = None

    @cached_property
    def found(self) -> Found:
        """What the files hold.

        Raises
        ------
        ArgumentError
            If there are no such files, the number of classes is not known, or their images are not in such a folder.
        MismatchError
            If files are missing, or the images are others.
        CorruptError
            If the configuration or the first file is damaged.
        """
        why = self._why_no_crops
        provenance: dict[str, Any] = {"dataset": self._dataset, "augmentations": list(self._augmentations.names), "files": len(self._files)}
        teacher = self._config.get("teacher")
        if isinstance(teacher, Mapping) and isinstance(teacher.get("name"), str):
            provenance["teacher"] = teacher["name"][:_MOST_NAME]
        lost = ["names of images: keys are their numbers in ml-dr's data set"] if self.images is None else []
        if self._augmentations.why_no_crops:
            lost.append("parameters of the augmentation. Keep the files if their own code is to train from them")
        share = self._share_of_agreement()
        if share is not None:
            provenance["largest_class_is_the_folders"] = round(share, 3)
        return Found(
            format="ml-dr",
            kind=self._kind,
            num_images=len(self._files),
            num_crops=len(self._files) * len(self._first),
            crops=NO_CROPS if why else PIXELS,
            source_bytes=sum(path.stat().st_size for path in self._files),
            provenance=provenance,
            metadata={"temperature": 1.0},
            lost=tuple(lost),
            why_no_crops=why,
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all images by number."""
        for number, path in enumerate(self._files):
            yield Entry(
                self._keys[number],
                str(path),
                partial(_image, number, path, self._kind, None if self._why_no_crops else self._augmentations),
            )

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        path = self.folder / CONFIG
        if not path.is_file():
            raise ArgumentError(
                f"{self.folder}: expected {CONFIG} in it, which says the augmentation, and files 0.pth.tar, ...: found none"
            )
        config = load_safely(path.read_bytes(), path)
        if not isinstance(config, Mapping) or not isinstance(config.get("reinforce"), Mapping):
            raise CorruptError(f"{path}: expected what reinforce.py was told, with a part 'reinforce', got {type(config).__name__}")
        return config

    @cached_property
    def _augmentations(self) -> Augmentations:
        return Augmentations.of(self._config["reinforce"].get("image_augmentation"), self.folder / CONFIG)

    @property
    def _dataset(self) -> str:
        name = self._config.get("dataset", "imagenet")
        return name[:_MOST_NAME] if isinstance(name, str) else shown(name)

    @property
    def _why_no_crops(self) -> str:
        return self._augmentations.why_no_crops or (WHY_SIZES if self.images is None else "")

    @cached_property
    def _files(self) -> list[Path]:
        found = {int(name[1]): path for path in self.folder.iterdir() if (name := _FILE.fullmatch(path.name))}
        if not found:
            raise ArgumentError(f"{self.folder}: expected files 0.pth.tar, 1.pth.tar, ... in it, found none")
        missing = next((number for number in range(len(found)) if number not in found), None)
        if missing is not None:
            raise MismatchError(f"{self.folder}: expected 0.pth.tar to {max(found)}.pth.tar, lacks {missing}.pth.tar")
        return [found[number] for number in sorted(found)]

    @cached_property
    def _keys(self) -> list[str]:
        """The key of each image, by number."""
        if self.images is None:
            return [str(number) for number in range(len(self._files))]
        if self._dataset not in _IN_FOLDERS:
            what = f"images of {self._dataset!r} have their numbers from torchvision's data set, not from a folder"
            raise ArgumentError(f"{self.images}: {what}: expected no folder of images. Leave out --images")
        keys = image_folder_keys(self.images)
        if len(keys) != len(self._files):
            raise MismatchError(f"{self.images}: expected the {len(self._files)} images that {self.folder} has files of, got {len(keys)}")
        return keys

    @cached_property
    def _first(self) -> list[Any]:
        return _read(self._files[0], 0)

    @cached_property
    def _kind(self) -> Kind:
        stated = self._config.get("num_classes")
        num_classes = self.num_classes or stated
        if type(num_classes) is not int or num_classes < 2:
            raise ArgumentError(f"{self.folder}: num_classes: the configuration does not say it: pass it (--num-classes)")
        if stated not in (None, num_classes):
            raise MismatchError(f"{self.folder}: expected {num_classes} classes, got {stated}")
        k = len(self._first[0]["prob"][0])
        if not 1 <= k <= min(MAX_KEPT_CLASSES, num_classes):
            raise MismatchError(f"{self._files[0]}: expected 1 to {num_classes} classes of each crop, got {k}")
        return Kind(INDICES, num_classes, k, 4)

    def _share_of_agreement(self) -> float | None:
        """Return how often the most probable class of an image's first crop is that of its folder, for some images, if none is mixed."""
        if self.images is None or self._augmentations.mixes:
            return None
        numbers = np.unique(np.linspace(0, len(self._files) - 1, _COMPARED).astype(int))
        first = [_read(self._files[number], number)[0]["prob"] for number in numbers]
        largest = np.array([classes[np.argmax(values)] for values, classes in first])
        return share_in_own_folder(self._keys, numbers, largest, self._kind.num_classes, self.folder)


def _image(number: int, path: Path, kind: Kind, augmentations: Augmentations | None) -> SourceImage:
    samples = _read(path, number)
    indices, values = (np.array([sample["prob"][part] for sample in samples]) for part in (1, 0))
    with np.errstate(over="ignore"):
        labels = checked({INDICES: indices, VALUES: values.astype(np.float32)}, kind)
    repaired = {_NEGATIVE: int((labels[VALUES].sum(axis=1, dtype=np.float32) > 1).sum())}
    if augmentations is None:
        return SourceImage(labels, repaired=repaired)
    crops, flips = zip(*(augmentations.crop(sample["params"]) for sample in samples), strict=True)
    return SourceImage(labels, np.array(crops, np.int64), np.array(flips, np.bool_), repaired=repaired)


def _read(path: Path, number: int) -> list[Any]:
    """Return the samples of an image; CorruptError if the file is damaged or holds something else, MismatchError if it is of another."""
    found = _load(path)
    if not isinstance(found, list | tuple) or len(found) != 2 or not isinstance(found[1], list) or not found[1]:
        raise CorruptError(f"{path}: expected the number of an image and a list of samples, got {type(found).__name__}")
    if type(found[0]) is not int or found[0] != number:
        raise MismatchError(f"{path}: expected image {number}, as its name says, got {shown(found[0])}")
    width, most, total = None, path.stat().st_size, 0
    for place, sample in enumerate(found[1]):
        if not isinstance(sample, dict) or not {"params", "prob"} <= set(sample):
            raise CorruptError(f"{path}: sample {place}: expected 'params' and 'prob'")
        prob = sample["prob"]
        if not isinstance(prob, list | tuple) or len(prob) != 2 or not all(isinstance(part, list) for part in prob):
            raise CorruptError(f"{path}: sample {place}: expected lists of probabilities and of classes")
        values, classes = prob
        total += len(values) + len(classes)
        if total > most:
            raise CorruptError(f"{path}: its samples claim more probabilities than the file holds: expected different lists")
        good = all(type(value) is float for value in values) and all(type(one) is int and 0 <= one < 2**31 for one in classes)
        if not good or len(values) != len(classes) or not values:
            raise CorruptError(f"{path}: sample {place}: expected as many probabilities, floats, as classes, integers")
        if width not in (None, len(values)):
            raise MismatchError(f"{path}: sample {place}: expected {width} classes, as in the first, got {len(values)}")
        width = len(values)
    return found[1]


def _load(path: Path) -> Any:
    """Return what a file holds, in which `torch.save` pickled plain Python."""
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            if archive.getinfo(name).file_size > len(data):
                raise zipfile.BadZipFile("it is compressed, but torch.save does not compress")
            return load_plain(archive.read(name))
    except pickle.UnpicklingError as error:
        raise CorruptError(f"{path}: not a label file that can be read without running code: {error}") from None
    except Exception as error:  # zipfile raises many types of errors for damaged files
        raise CorruptError(f"{path}: not a readable label file: {type(error).__name__}: {error}") from None
