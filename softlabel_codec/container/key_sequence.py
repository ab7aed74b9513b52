"""`KeySequence`: keys of images by number, and numbers of images by key."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import overload


class KeySequence(Sequence[str]):
    """All keys in the order of the images, as a sequence that reads what it needs.

    It equals any sequence of the same keys, and pickles as a list.
    """

    @abstractmethod
    def at(self, number: int) -> str:
        """Return the key of the image with that number, which is there."""

    @abstractmethod
    def find(self, key: str) -> int | None:
        """Return the number of the image with that key, or None."""

    @abstractmethod
    def around(self, key: str, count: int) -> list[str]:
        """Return about so many keys that stand next to a key, which need not be there, in the order of keys."""

    @abstractmethod
    def spread(self, count: int) -> Iterable[str]:
        """Return about so many keys, or all if there are not more, from everywhere."""

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        num_keys = len(self)
        if isinstance(place, slice):
            return [self.at(number) for number in range(*place.indices(num_keys))]
        number = place + num_keys if place < 0 else place
        if not 0 <= number < num_keys:
            raise IndexError(f"image number: expected {-num_keys} to {num_keys - 1}, got {place}")
        return self.at(number)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.find(key) is not None

    def index(self, key: str, start: int = 0, stop: int | None = None) -> int:
        """Return the number of the image with that key; ValueError if there is none in the range, as for a list."""
        number = self.find(key)
        if number is None or not start <= number < (len(self) if stop is None else stop):
            raise ValueError(f"{key!r} is not among the keys")
        return number

    def __repr__(self) -> str:
        return f"<{len(self)} keys>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[list[str]], tuple[list[str]]]:
        return list, (list(self),)
