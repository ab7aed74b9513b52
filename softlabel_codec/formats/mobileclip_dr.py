"""Embeddings that Apple's MobileCLIP-DR stores (Vasu et al., CVPR 2024; `raygen` of ml-mobileclip-dr; DataCompDR): import only.

WebDataset shards, in which a sample has `UID.npz` (float32) or `UID.pth.gz` (bfloat16, `torch.save`, compressed): `image_emb` (M, D), what
the image encoders of the teachers returned for M crops, side by side; and `UID.paug.json`: `param_aug`, the parameters of the augmentation
of each, in the order of `config.json`, which lies beside the shards, or nowhere in what is published. By default that includes RandAugment,
which no list of boxes can say: then embeddings are imported to be looked at. Embeddings of texts are not kept.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.dr_augmentations import Augmentations
from softlabel_codec.formats.importing import NO_CROPS, PIXELS, Entry, Found, SourceImage
from softlabel_codec.formats.labels import FEATURES, Kind, checked
from softlabel_codec.formats.npz import read_npz
from softlabel_codec.formats.torch_files import load_safely
from softlabel_codec.formats.webdataset import headers, members
from softlabel_codec.images.files import read_size
from softlabel_codec.storage.patterns import is_url, open_file

CONFIG = "config.json"
NPZ, TORCH, PARAMS, IMAGE = "npz", "pth.gz", "paug.json", "jpg"
_EMBEDDINGS, _PARAMETERS = "image_emb", "param_aug"
_MOST_BYTES = 2**28
_WHY_NO_CONFIG = f"{CONFIG}, which says what the augmentation was, is not beside the shards"
_WHY_NO_IMAGES = "crops are in pixels of images whose sizes are not known: the shards do not hold the images"


class _Sample(NamedTuple):
    """The members of a sample that are read."""

    uid: str
    where: str
    parts: dict[str, bytes]


@dataclass(frozen=True)
class MobileClipSource:
    """Embeddings in shards of MobileCLIP-DR.

    Attributes
    ----------
    shards : sequence of str
        Tar files, not compressed.
    num_classes : int or None
        D, if the caller says it.
    """

    shards: Sequence[str]
    num_classes: int | None = None

    @cached_property
    def found(self) -> Found:
        """What the shards hold, by the names of their members and the first sample.

        Raises
        ------
        MismatchError
            If there are no embeddings, or they have another width.
        CorruptError
            If the first sample or the configuration is damaged.
        """
        first, why = self._first, self._why_no_crops
        embeddings = _embeddings(first)
        width = embeddings.shape[1] if embeddings.ndim == 2 else 0
        if width < 2 or not len(embeddings) or self.num_classes not in (None, width):
            wanted = f"(M, {self.num_classes or 'D'})"
            raise MismatchError(
                f"{first.where}: {_EMBEDDINGS}: expected floats {wanted}, got {embeddings.dtype} of shape {embeddings.shape}"
            )
        lost = ["embeddings of texts, and synthetic captions"]
        if why:
            lost.append("parameters of the augmentation. Keep the shards if their own code is to train from them")
        num_images, num_bytes = self._counted
        return Found(
            format="MobileCLIP-DR",
            kind=Kind(FEATURES, width, None, 2 if embeddings.dtype == np.float16 else 4),
            num_images=num_images,
            num_crops=num_images * len(embeddings),
            crops=NO_CROPS if why else PIXELS,
            source_bytes=num_bytes,
            provenance={"shards": len(self.shards), "augmentations": None if self._config is None else list(self._config.names)},
            lost=tuple(lost),
            why_no_crops=why,
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all samples in the order of the shards, each when its members are in memory."""
        kind, config = self.found.kind, None if self._why_no_crops else self._config
        for sample in self._samples():
            yield Entry(sample.uid, sample.where, partial(_image, sample, kind, config), sum(map(len, sample.parts.values())))

    @cached_property
    def _config(self) -> Augmentations | None:
        path = Path(self.shards[0]).parent / CONFIG
        if is_url(self.shards[0]) or not path.is_file():
            return None
        try:
            return Augmentations.of(json.loads(path.read_text(encoding="utf-8")), path)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{path}: expected JSON: {error}") from None

    @cached_property
    def _why_no_crops(self) -> str:
        if self._config is None:
            return _WHY_NO_CONFIG
        return self._config.why_no_crops or ("" if IMAGE in self._first.parts else _WHY_NO_IMAGES)

    @cached_property
    def _first(self) -> _Sample:
        for sample in self._samples(with_images=True):
            return sample
        raise MismatchError(f"{self.shards[0]}: expected samples with UID.{NPZ} or UID.{TORCH} in the shards, found none")

    @cached_property
    def _counted(self) -> tuple[int, int]:
        """Number of samples with embeddings in all shards, and bytes of these."""
        number = num_bytes = 0
        for shard in self.shards:
            with open_file(shard) as file:
                for member in headers(file, shard):
                    if _split(member.name)[1] in (NPZ, TORCH):
                        number, num_bytes = number + 1, num_bytes + member.size
        return number, num_bytes

    def _samples(self, with_images: bool = False) -> Iterator[_Sample]:
        """Yield the samples that have embeddings; their members follow one another."""
        wanted = {NPZ, TORCH, PARAMS}
        if with_images or not self._why_no_crops:
            wanted.add(IMAGE)
        for shard in self.shards:
            uid, parts = "", dict[str, bytes]()
            for name, data in members(shard, lambda name: _split(name)[1] in wanted):
                key, ending = _split(name)
                if key != uid and parts:
                    yield from _complete(shard, uid, parts)
                uid, parts = key, {**(parts if key == uid else {}), ending: data}
            if parts:
                yield from _complete(shard, uid, parts)


def _image(sample: _Sample, kind: Kind, config: Augmentations | None) -> SourceImage:
    labels = checked({FEATURES: _embeddings(sample)}, kind)
    params = _parameters(sample)
    if len(params) != len(labels[FEATURES]):
        raise MismatchError(f"expected parameters of {len(labels[FEATURES])} crops, as there are embeddings, got {len(params)}")
    if config is None:
        return SourceImage(labels)
    if IMAGE not in sample.parts:
        raise MismatchError(f"expected the image, {sample.uid}.{IMAGE}, as in the first sample")
    try:
        size = read_size(sample.parts[IMAGE], f"{sample.uid}.{IMAGE}")
    except OSError as error:
        raise CorruptError(f"{sample.uid}.{IMAGE}: {error}") from None
    crops, flips = zip(*map(config.crop, params), strict=True)
    return SourceImage(labels, np.array(crops, np.int64), np.array(flips, np.bool_), size)


def _complete(shard: str, uid: str, parts: dict[str, bytes]) -> Iterator[_Sample]:
    if NPZ in parts or TORCH in parts:
        yield _Sample(uid, f"{shard}: {uid}", parts)


def _split(name: str) -> tuple[str, str]:
    """Return the key of the sample that a member is of, and its ending after the first dot of the file name, as WebDataset does."""
    folder, file = os.path.split(name.removeprefix("./"))
    stem, _, ending = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending


def _embeddings(sample: _Sample) -> NDArray[Any]:
    """Return the embeddings of a sample, float16 or float32; bfloat16 becomes float32."""
    if NPZ in sample.parts:
        found: Any = read_npz(sample.parts[NPZ], f"{sample.where}.{NPZ}")
    else:
        found = load_safely(_unzipped(sample), f"{sample.where}.{TORCH}")
    part = found.get(_EMBEDDINGS) if isinstance(found, Mapping) else None
    if isinstance(part, torch.Tensor) and part.dtype == torch.bfloat16:
        part = part.float()
    if isinstance(part, torch.Tensor) and part.dtype in (torch.float16, torch.float32):
        part = part.detach().numpy()
    if not isinstance(part, np.ndarray) or part.dtype not in (np.float16, np.float32):
        got = part.dtype if isinstance(part, np.ndarray | torch.Tensor) else type(part).__name__
        raise MismatchError(f"{sample.where}: expected {_EMBEDDINGS} as float16, bfloat16 or float32, got {got}")
    return part


def _unzipped(sample: _Sample) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(sample.parts[TORCH])) as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptError(f"{sample.where}.{TORCH}: not a readable gzip file: {error}") from None
    if len(data) > _MOST_BYTES:
        raise CorruptError(f"{sample.where}.{TORCH}: expected at most {_MOST_BYTES} bytes, got more")
    return data


def _parameters(sample: _Sample) -> Sequence[Any]:
    """Return the parameters of each crop; in what is published they are a text in JSON."""
    if PARAMS not in sample.parts:
        raise MismatchError(f"expected the parameters of the augmentation, {sample.uid}.{PARAMS}, beside the embeddings")
    try:
        found = json.loads(sample.parts[PARAMS])[_PARAMETERS]
        found = json.loads(found) if isinstance(found, str) else found
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptError(f"{sample.uid}.{PARAMS}: expected JSON with {_PARAMETERS}: {error!r}") from None
    if not isinstance(found, list):
        raise CorruptError(f"{sample.uid}.{PARAMS}: expected a list of parameters, got {type(found).__name__}")
    return found
