"""`SoftLabelDataset`: stored crops and labels of images, for a DataLoader."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.errors import ArgumentError
from softlabel_codec.image_source import ImageData, ImageSource
from softlabel_codec.images.finding import find_images
from softlabel_codec.labels import BatchLabels, ImageLabels
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch.collate import Sample
from softlabel_codec.torch.cropper import CropOptions, Cropper
from softlabel_codec.torch.shared import SharedTensor
from softlabel_codec.torch.truth import TargetOf, find_truth
from softlabel_codec.torch.turns import Turns


class SoftLabelDataset(Cropper, Dataset[Sample]):
    """Images, N of the stored crops of each, and the labels of those crops. One decoding of an image serves all N.

    A sample never holds a crop twice, and all stored crops of an image are used before any is used again. Which crops come depends on
    the seed, the image's number in the file, and its turn. With a `SoftLabelSampler` the turn is a function of the epoch only. Any other
    sampler gives plain integers; then the dataset counts the turns of each image itself, in all its worker processes together (4 bytes
    per image), so that an image that comes again, in the same epoch or the next, brings other crops, whether `set_epoch` is called or
    not. What counting cannot do: a continued run does not know what was drawn before it, beyond the epoch that is set; several training
    processes do not know of each other, and draw the same crops of an image that comes in both, unless each image comes once in an epoch
    and `set_epoch` is called; and of two workers that take up the same image in the same microseconds both may get the same turn.

    What pixels are to look like depends on who takes them:

    ==================================  ==========================================  =========================================
    who takes the batches               what to ask for                             who normalises
    ==================================  ==========================================  =========================================
    a training loop of your own         the default, `mean` and `std` as in         the dataset
                                        your validation
    timm's PrefetchLoader               `normalized=False`                          the loader: give it mean and std
    torchvision v2 on batches           `normalized=False`                          `ToDtype(torch.float32, scale=True)` and
                                                                                    `Normalize` at the end
    what is to go to the GPU as bytes   `normalized=False`                          `softlabel_codec.torch.normalize`
    a pipeline on PIL images            `after_crop=`                               the pipeline
    ==================================  ==========================================  =========================================

    Parameters
    ----------
    images : path, mapping, array, dataset or ImageSource
        Where the labelled images are, by key: a folder, WebDataset shards, a table, a mapping of keys to images, ...: see `open_images`
        of `softlabel_codec.images`. Keys of FKD label files, which lack the file name's ending, are found as well.
    labels : path or URL
        Label file, or label set: its folder or its index.
    crops_per_image : int
        N.
    size : int
        Side of a crop as the network sees it, in pixels.
    seed : int
        Decides the order in which crops are drawn.
    mean, std : three floats, optional
        Normalisation of RGB in 0..1. By default the teacher's, from the file, or else ImageNet's. Where the teacher's differ from
        ImageNet's, the default is said once, as a warning: validation must use the same.
    interpolation : str, optional
        How crops are scaled. By default as for the teacher, from the file, or else bilinear.
    normalized : bool
        False to get uint8 crops, a quarter of the bytes.
    after_crop : callable, optional
        PIL image (of `size` x `size` pixels) to tensor, applied to each crop instead of the normalisation: for further changes of
        colours, for erasing. The crop is cut and mirrored already, as its label says: what moves, cuts or mirrors is refused.
    policy : str, optional
        Remainder policy to read sparse labels with, if not the codec's own: `uniform`, `renorm`, `tail`, `bucket`
        or `neighbours`.
    temperature : float, optional
        T of softmax(logits / T) to read labels at, if not the one that they are stored at, as for `SoftLabelReader`. Divide the student's
        logits by it too: `SoftCrossEntropy(temperature=dataset.reader.temperature)`.
    num_classes : int, optional
        Number of classes that the student predicts, to be checked against the file.
    backend : str
        What cuts crops: `pillow`, exactly as for the teacher; or `torch`, which is 1.6 to 1.9 times as fast in all (`benchmarks/REPORT.md`)
        and decodes JPEG files with torchcodec if that is installed. Then about 1 % of the 8-bit samples differ from the teacher's, by 1.
    reduced_decoding : bool
        Decode JPEG files at a half, a quarter or an eighth of their size where all crops that are due are at least as many times
        larger than `size`. Faster for large photographs, but the pixels are not exactly those that the teacher saw.
    on_corrupt : str
        What an image does whose labels are damaged: `raise` an error, or `skip`: a batch comes without it, and it counts in `num_damaged`.
    keys : iterable of str, optional
        Use only the images of these keys, in this order.
    key : callable, optional
        Where images have other keys than in the label file: returns the key of an image in `images`, given its key in the label file.
        With processes that are spawned, a function that can be pickled.
    on_missing : str
        What labelled images do that are not there: `raise` an error, or `skip`: they are left out with a warning, and count in
        `num_missing`.
    check_images : bool
        Compare each image file with the checksum of the one that was labelled, if the labels keep it, the first time that a process reads
        it (about 1 % of the time of its decoding). False for copies that are known to differ. PIL images and arrays are not compared.
    stored_crops : int, optional
        Draw from the first so many crops of each image only, as if no more had been stored.
    sampler : CropSampler, optional
        With label fields (`codec="field"`): draw crops of this sampler, new ones at each turn, instead of those of the file.
    exif_orientation : str, optional
        Whether images are turned as a camera's EXIF tag says, `applied` or `ignored`. By default as for the teacher, from the file, or else
        ignored.
    target_of : str or callable, optional
        Where the true class of an image comes from, which a sample carries as `target`, and which batches have as their third part:
        `folder`: the number of its class folder, the first part of its key, among those of all labelled images in ascending order, as
        torchvision's `ImageFolder` counts them. (Folders whose names are all decimal ascend as numbers.) Or a function that returns the
        class of a key, int; with processes that are spawned, one that can be pickled.
    cache : path or bool
        Where labels behind a URL are kept, each file as a whole, as for `SoftLabelReader`. True: the folder `SOFTLABEL_CACHE` of the
        environment, or else `~/.cache/softlabel_codec`; False: nowhere, each batch asks for its bytes.
    transform : None
        Nothing else: elsewhere it means what cuts a random crop. Setting it as an attribute, as timm's `create_loader` does, is refused
        too.

    Attributes
    ----------
    keys : sequence of str
        Keys of the images, by their index in this dataset.
    classes, class_to_idx : list of str, and dict of str to int; or None
        With `target_of="folder"`, class folders by class number, and the reverse.
    numbers : int64 (len(dataset),)
        Numbers of the images in the file. They differ from the index where images were left out. The crops of an image do not.
    num_missing : int
        How many images were left out because they are not there.

    Raises
    ------
    MismatchError
        If labelled images are missing, a key is not in the file, the number of classes differs, or `target_of="folder"` and images lie in
        no folders, or in more or fewer than there are classes; on reading, if an image has another size than the labelled one, or its
        file other bytes.
    ArgumentError
        If more crops are asked for than an image has, the labels cannot be read at the temperature, or another argument cannot be; on
        reading, if the mapping of images holds something that is none.
    FormatError
        If the container file is not sound; on reading, if labels are damaged, and with `on_corrupt="skip"` those of a whole batch.
    """

    def __init__(
        self,
        images: Any,
        labels: str | os.PathLike[str],
        crops_per_image: int = 4,
        size: int = 224,
        seed: int = 0,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
        normalized: bool = True,
        after_crop: Callable[[Image.Image], Tensor] | None = None,
        policy: str | None = None,
        temperature: float | None = None,
        num_classes: int | None = None,
        backend: str = "pillow",
        reduced_decoding: bool = False,
        on_corrupt: str = "raise",
        keys: Iterable[str] | None = None,
        key: Callable[[str], str] | None = None,
        on_missing: str = "raise",
        check_images: bool = True,
        stored_crops: int | None = None,
        sampler: CropSampler | None = None,
        exif_orientation: str | None = None,
        target_of: TargetOf | None = None,
        cache: str | os.PathLike[str] | bool = True,
        transform: object = None,
    ) -> None:
        if transform is not None:
            self.transform = transform
        options = CropOptions(mean, std, interpolation, normalized, after_crop, backend, reduced_decoding, exif_orientation)
        super().__init__(
            labels, crops_per_image, size, seed, options, policy, temperature, on_corrupt, check_images, stored_crops, sampler, cache
        )
        if num_classes is not None:
            self.reader.check_classes(num_classes)
        self._images, self._numbers, self.num_missing = find_images(images, self.reader, keys, on_missing, key)
        self._check_crops(self.reader.num_crops if self._numbers is None else self.reader.num_crops[self._numbers])
        self._truth = find_truth(target_of, self.reader, self.keys)
        self._turns = Turns(len(self))
        damaged = torch.zeros(len(self.reader) if on_corrupt == "skip" else 0, dtype=torch.bool)
        self._damaged = SharedTensor(damaged)  # what workers find damaged is known to all

    @property
    def keys(self) -> Sequence[str]:
        return self.reader.keys if self._numbers is None else _SomeKeys(self.reader.keys, self._numbers)

    @property
    def source(self) -> ImageSource:
        """Where the images are."""
        return self._images.source

    @property
    def source_keys(self) -> list[str]:
        """Keys of the images in `source`, by their index in this dataset: `keys`, with the endings that the label file leaves out."""
        return [self._images.key(number, key) for number, key in zip(self.numbers.tolist(), self.keys, strict=True)]

    @property
    def numbers(self) -> NDArray[np.int64]:
        return np.arange(len(self.reader)) if self._numbers is None else self._numbers.copy()

    @property
    def classes(self) -> list[str] | None:
        """Class folders in the order of their class numbers, of all images of the label file; None unless `target_of="folder"`."""
        return self._truth.classes

    @property
    def class_to_idx(self) -> dict[str, int] | None:
        """Class number of each class folder; None unless `target_of="folder"`."""
        return self._truth.class_to_idx

    @property
    def epoch(self) -> int:
        """The epoch that was set last; 0 at first."""
        return self._turns.epoch

    @property
    def num_damaged(self) -> int:
        """How many images were left out so far, in all workers, because their labels are damaged."""
        return int(self._damaged.tensor.sum())

    def set_epoch(self, epoch: int) -> None:
        """Let plain indices take the turn of this epoch from now on, in all workers, or a later one that they have come to by counting."""
        self._turns.set_epoch(epoch)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Let what is drawn inside a `with` block count as no turn."""
        counted = self._turns.counted()
        try:
            yield
        finally:
            self._turns.count_from(counted)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.reader) if self._numbers is None else len(self._numbers)

    def __getitem__(self, index: int) -> Sample:
        """Return the crops of one image that are due: those of its turn if the index is an `ImageTurn`, else the next ones."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the crops of several images; DataLoader calls this with all indices of a batch.

        The images of the samples are parts of one tensor, which `collate_crops` puts together without copying it.
        """
        labelled = self._due(indices)
        images = [self._image_of(number, image) for number, image in zip(labelled.images.tolist(), labelled, strict=True)]
        places = [range(len(self))[index] for index in indices]
        index_of = dict(zip(self._numbers_at(places).tolist(), places, strict=True))
        samples = []
        for number, image, crops in zip(labelled.images.tolist(), labelled, self._cut(labelled, images), strict=True):
            key = self.reader.keys[number]
            samples.append(Sample(crops, image.labels, index_of[number], key, self._truth(key)))
        return samples

    def images_per_batch(self, num_crops: int) -> int:
        """Return how many images have so many crops together: the `batch_size` of a DataLoader for a batch size counted in crops.

        Raises
        ------
        ArgumentError
            If it is no multiple of the crops that are drawn of an image.

        Examples
        --------
        `DataLoader(dataset, batch_size=dataset.images_per_batch(256), ...)`
        """
        images, rest = divmod(check_whole("num_crops", num_crops, 1), self.crops_per_image)
        if rest:
            raise ArgumentError(f"num_crops: expected a multiple of crops_per_image, {self.crops_per_image}, got {num_crops}")
        return images

    def whole_image(self, index: int) -> Image.Image:
        """Return an image as its crops are cut out of it: decoded to RGB, turned and padded as for the teacher."""
        number = int(self._numbers_at([range(len(self))[index]])[0])
        return self._whole(*self._image_of(number, self.reader.read(number, [0])))

    def labels_of(self, indices: Sequence[int]) -> list[ImageLabels]:
        """Return crops, flips and labels that are due, without any image, and without counting it as a turn."""
        return list(self._due(indices, count=False))

    def _due(self, indices: Sequence[int], count: bool = True) -> BatchLabels:
        places, turns = self._turns.due(indices, count)
        numbers = self._numbers_at(places)
        try:
            return self._draw(numbers, turns)
        finally:
            if len(self._damaged.tensor):
                self._damaged.tensor[self.reader.damaged_images] = True

    def _numbers_at(self, places: Any) -> NDArray[np.int64]:
        """Return the numbers in the file of the images at these places of the dataset, int64 (B,)."""
        return np.asarray(places) if self._numbers is None else self._numbers[places]

    def _image_of(self, number: int, labelled: ImageLabels) -> tuple[ImageData, str]:
        """Return an image, and what to call it in errors."""
        key = self.reader.keys[number]
        return self._sound(number, labelled, self._images.read(number, key)), self._images.where(number, key)


class _SomeKeys(Sequence[str]):
    """Keys of some images of a file, which stay in the file."""

    def __init__(self, keys: Sequence[str], numbers: NDArray[np.int64]) -> None:
        self._keys, self._numbers = keys, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self._keys[number] for number in self._numbers[place].tolist()]
        return self._keys[int(self._numbers[place])]

    def __repr__(self) -> str:
        return f"<{len(self)} keys>"
