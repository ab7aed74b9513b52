"""`SoftLabelSampler`: the order of images and their turns, for a DataLoader over a `SoftLabelDataset`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import DistributedSampler, Subset

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.torch.turns import ImageTurn, check_epoch

_SAME = ("num_images", "shuffle", "seed", "world_size", "repeats", "parts", "drop_last")
"""What a state may only be loaded with if it is the same."""


class SoftLabelSampler(DistributedSampler[ImageTurn]):
    """Gives a `SoftLabelDataset` the images of an epoch, each with the turn that says which of its crops are due.

    So the epoch travels with the index: whether a worker process is started anew, was forked, was handed a copy of the dataset or reads
    ahead, it cuts the crops of the epoch that it was asked for. Which images and crops come is a function of seed and epoch only.

    Epochs count themselves: each `iter` begins the next one, and `set_epoch`, if it is called, says which. It is a `DistributedSampler`,
    which Lightning and others leave in its place and tell the epoch. Accelerate splits batches itself: give it a sampler of
    `world_size=1, rank=0`, and tell the epoch of a continued run to the loader that it returns.

    Parameters
    ----------
    dataset : SoftLabelDataset
        What is drawn from; only its length is used.
    images : sequence of int, optional
        Draw only these images of the dataset, instead of giving the loader a `torch.utils.data.Subset`. In this order, if `shuffle` is
        false.
    shuffle : bool
        Whether images come in an order of their own in each epoch.
    seed : int
        Decides that order. (Which crops are drawn depends on the seed of the dataset.)
    rank, world_size : int, optional
        Which of how many processes this is. By default as `torch.distributed` says once it is initialised, or else the only one.
    repeats : int
        How often each image comes in an epoch, with other crops each time, one after the other: repeated augmentation (Hoffer et al.,
        2020). Several processes take them side by side.
    parts : int
        How many epochs make a pass over the images; each takes another part of them. With as many as crops are drawn of an image, an epoch
        has as many crops as there are images, whatever that number is: a schedule counted in epochs need not change.
    drop_last : bool
        Where images cannot be shared evenly among processes and parts: true leaves the last ones out; false gives some from the beginning
        of the pass again, with the same crops.

    Attributes
    ----------
    epoch : int
        The epoch that begins next.

    Raises
    ------
    ArgumentError
        If an argument cannot be; if a process would have nothing to do; or, when it is iterated, if Accelerate is in use and it was not
        said who splits.

    Examples
    --------
    >>> sampler = SoftLabelSampler(range(4), shuffle=False)
    >>> list(sampler), list(sampler)[0]
    ([ImageTurn(0, turn=0), ImageTurn(1, turn=0), ImageTurn(2, turn=0), ImageTurn(3, turn=0)], ImageTurn(0, turn=1))
    >>> sampler = SoftLabelSampler(range(4), shuffle=False, repeats=2, rank=1, world_size=2)
    >>> sampler.set_epoch(10)
    >>> next(iter(sampler))
    ImageTurn(0, turn=21)
    >>> sampler = SoftLabelSampler(range(4), shuffle=False, parts=2)
    >>> list(sampler), list(sampler), list(sampler)[0]
    ([ImageTurn(0, turn=0), ImageTurn(1, turn=0)], [ImageTurn(2, turn=0), ImageTurn(3, turn=0)], ImageTurn(0, turn=1))
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        images: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        repeats: int = 1,
        parts: int = 1,
        drop_last: bool = False,
    ) -> None:
        if isinstance(dataset, Subset):
            advice = "give the loader the dataset itself, and this sampler images=subset.indices"
            raise ArgumentError(f"dataset: expected a SoftLabelDataset, got a Subset, which would lose the turns: {advice}")
        if (rank is None) != (world_size is None):
            raise ArgumentError(f"rank and world_size: expected both or neither, got rank={rank} and world_size={world_size}")
        self._images = None if images is None else _image_numbers(images, len(dataset))
        self.num_images = len(dataset) if self._images is None else len(self._images)
        self.shuffle, self.drop_last = bool(shuffle), bool(drop_last)
        self.seed = check_whole("seed", seed, 0)
        self.repeats, self.parts = check_whole("repeats", repeats, 1), check_whole("parts", parts, 1)
        self._place: tuple[int, int] | None = None
        if rank is not None:
            self._place = check_whole("rank", rank, 0), check_whole("world_size", world_size, 1)
            if self._place[0] >= self._place[1]:
                raise ArgumentError(f"rank: expected at most {self._place[1] - 1}, as there are {self._place[1]} processes, got {rank}")
        self.epoch, self._first, self._loaded = 0, 0, False
        self._begun: set[int] = set()
        self._current: _Pass | None = None
        len(self)

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which process this is."""
        return self._among_processes()[0]

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self._among_processes()[1]

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """As DistributedSampler calls the number of processes."""
        return self.world_size

    def _among_processes(self) -> tuple[int, int]:
        if self._place is not None:
            return self._place
        if not (distributed.is_available() and distributed.is_initialized()):
            return 0, 1
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
        if world_size > 1 and _accelerate_is_in_use():
            mine = f"Pass rank=0, world_size=1 if it goes through accelerator.prepare, and rank={rank}, world_size={world_size} if not"
            raise ArgumentError(f"world_size: Accelerate splits the batches of a loader that it prepares among the processes. {mine}")
        return rank, world_size

    def __len__(self) -> int:
        """Return how many draws an epoch has for this process; the same for all."""
        count = self._share(self._share(self.num_images * self.repeats, self.parts), self.world_size)
        if not count:
            few = f"{self.num_images * self.repeats} images in {counted(self.parts, 'epoch')} are too few"
            raise ArgumentError(f"world_size: {few} for {counted(self.world_size, 'process', 'processes')}")
        return count

    def _share(self, draws: int, among: int) -> int:
        """Return how many draws each gets."""
        return draws // among if self.drop_last else -(-draws // among)

    def __iter__(self) -> Iterator[ImageTurn]:
        """Begin an epoch: the one that was set, or the one after the last."""
        epoch, first = self.epoch, self._first
        if epoch in self._begun and not first:
            advice = "Call set_epoch with another number, or not at all: epochs count themselves"
            warnings.warn(f"epoch {epoch} begins a second time, with the same crops in the same order. {advice}", stacklevel=2)
        self._begun.add(epoch)
        self._current = _Pass(epoch, first, *self._draws(epoch))
        self.epoch, self._first, self._loaded = epoch + 1, 0, False
        return self._current

    def _draws(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return images and turns of an epoch for this process, both int64 (len(self),)."""
        rank, world_size = self._among_processes()
        turn, part = divmod(epoch, self.parts)
        draws = self.num_images * self.repeats
        in_epoch = self._share(draws, self.parts)
        place = part * in_epoch + (rank + world_size * np.arange(len(self))) % in_epoch
        image, repeat = np.divmod(place % draws, self.repeats)
        order = np.random.default_rng([self.seed, turn]).permutation(self.num_images) if self.shuffle else np.arange(self.num_images)
        return order[image] if self._images is None else self._images[order[image]], turn * self.repeats + repeat

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins next. The epoch of a loaded state continues where the state was taken."""
        epoch = check_epoch(epoch)
        if epoch != self.epoch:
            if self._loaded:
                advice = "With Accelerate, tell the epoch to the loader that it returned"
                warnings.warn(f"epoch {epoch} was set: the state loaded, of epoch {self.epoch}, is forgotten. {advice}", stacklevel=2)
            self._first, self._loaded = 0, False
        if self._current is not None and self._current.epoch != epoch:
            self._current = None
        self.epoch = epoch

    def state_dict(self, taken: int | None = None) -> dict[str, Any]:
        """Return the state that is needed to continue from here, in plain values.

        Parameters
        ----------
        taken : int, optional
            How many draws of the running epoch this process has trained on, counted from the beginning of the epoch (batches times batch
            size). By default as many as were handed out; that is too many where workers read ahead, as those are not trained on yet.

        Raises
        ------
        ArgumentError
            If so many were not handed out.
        """
        epoch, first, given = (self.epoch, self._first, self._first) if self._current is None else self._current.where()
        taken = given if taken is None else check_whole("taken", taken, 0)
        if not first <= taken <= given:
            raise ArgumentError(f"taken: expected {first} to {given}, counted from the beginning of epoch {epoch}, got {taken}")
        if taken == len(self):
            epoch, taken = epoch + 1, 0
        return {"epoch": epoch, "taken": taken, **{name: getattr(self, name) for name in _SAME}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a state was taken: the next `iter` gives the rest of that epoch.

        Raises
        ------
        MismatchError
            If it was that of a sampler of other images, processes or options.
        """
        for name in _SAME:
            if state.get(name) != getattr(self, name):
                raise MismatchError(f"state: expected that of a sampler with {name}={getattr(self, name)}, got {name}={state.get(name)}")
        self.epoch, self._first = check_epoch(state.get("epoch")), check_whole("taken", state.get("taken"), 0)
        self._begun, self._current, self._loaded = set(), None, True

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Let what is drawn inside a `with` block count for nothing: afterwards it goes on as if it had not been iterated."""
        kept = {**vars(self), "_begun": set(self._begun)}
        try:
            yield
        finally:
            vars(self).update(kept)


class _Pass(Iterator[ImageTurn]):
    """What is given in an epoch, and how much of it was."""

    def __init__(self, epoch: int, first: int, images: NDArray[np.int64], turns: NDArray[np.int64]) -> None:
        self.epoch, self._first, self._given = epoch, first, first
        self._images, self._turns = images, turns

    def __next__(self) -> ImageTurn:
        place = self._given
        if place >= len(self._images):
            raise StopIteration
        self._given += 1
        return ImageTurn(int(self._images[place]), int(self._turns[place]))

    def where(self) -> tuple[int, int, int]:
        """Return the epoch, the place where it began, and how far it has come."""
        return self.epoch, self._first, self._given


def _image_numbers(images: Sequence[int] | NDArray[np.integer[Any]], num_images: int) -> NDArray[np.int64]:
    array = np.asarray(images)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= num_images:
        raise ArgumentError(f"images: expected numbers of images, 0 to {num_images - 1}, got {images!r:.200}")
    return array.astype(np.int64)


def _accelerate_is_in_use() -> bool:
    state = sys.modules.get("accelerate.state")
    return state is not None and bool(state.is_initialized())
