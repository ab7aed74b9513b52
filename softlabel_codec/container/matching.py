"""Finds images by keys, also by keys that other programs shortened or extended, many at once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from hashlib import blake2b
from heapq import nlargest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import whole
from softlabel_codec.container.key_sequence import KeySequence
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.storage.location import Location

Match = str | Callable[[str], str]
Names = Callable[[str], tuple[str, ...]]

_KEYS_PER_LOOKUP = 200
"""To make an index takes about as long as to look up one in so many of the stored keys without one."""
_MOST_OF_A_NAME = 4
"""How many images of a name are looked at: more than one is an error, whatever their number."""
_COMPARED_KEYS, _COMPARED_CHARACTERS = 1000, 200


class KeyFinder:
    """Finds images by keys that are equal to the stored ones, or equal under a rule.

    What a rule needs is made when it is first used, by reading all keys once: 24 bytes for each name, in arrays.

    Parameters
    ----------
    keys : KeySequence
        The stored keys.
    path : Path or Url
        Where they are, for messages.
    """

    def __init__(self, keys: KeySequence, path: Location) -> None:
        self._keys, self._path = keys, path
        self._indices: dict[tuple[str, int], tuple[Match, _Names]] = {}
        self._looked_up = 0

    def find(self, keys: Iterable[str], match: Match, missing: int | None) -> NDArray[np.int64]:
        """Return the numbers of the images with these keys, int64 (B,); see `SoftLabelReader.find`."""
        asked, filled = _check_keys(keys), _check_missing(missing)
        found = self._search(asked, match)
        if (found.second >= 0).any():
            raise self._ambiguous(asked, found, match)
        unknown = found.first < 0
        if unknown.any() and missing is None:
            raise self._unknown(asked, unknown, match)
        return np.where(unknown, filled, found.first)

    def _search(self, asked: Sequence[str], match: Match) -> _Found:
        """Return the images that each key fits by the first of the rules of `match` that any fits."""
        rules = _rules(match)
        if match == "exact" and self._are_few(len(asked)):
            numbers = [self._keys.find(key) for key in asked]
            return _Found(np.array([-1 if number is None else number for number in numbers], np.int64), np.full(len(asked), -1))
        found = _Found.nothing(len(asked))
        left = np.arange(len(asked))
        for place, rule in enumerate(rules):
            names = _Names.of([asked[key] for key in left.tolist()], rule.asked)
            found.put(left, *self._index(match, place, rule).pairs(names))
            left = left[found.first[left] < 0]
        return found

    def _are_few(self, num_keys: int) -> bool:
        """Return whether keys are still so few, with those before them, that an index would not pay."""
        self._looked_up += num_keys
        return ("exact", 0) not in self._indices and self._looked_up * _KEYS_PER_LOOKUP < len(self._keys)

    def _index(self, match: Match, place: int, rule: _Rule) -> _Names:
        """Return the index of a rule; of functions only that of the last one is kept."""
        name = (match if isinstance(match, str) else "function", place)
        kept = self._indices.get(name)
        if kept is None or kept[0] != match:
            kept = self._indices[name] = (match, _Names.of(self._keys, rule.stored).in_order())
        return kept[1]

    def _fitting(self, asked: Sequence[str], match: Match) -> str | None:
        """Return the other `match` that finds one image for each key, if there is one."""
        others = (other for other in _RULES if other != match)
        return next((other for other in others if self._search(asked, other).is_complete()), None)

    def _ambiguous(self, asked: Sequence[str], found: _Found, match: Match) -> MismatchError:
        place = int((found.second >= 0).argmax())
        both = " and ".join(repr(self._keys[int(numbers[place])]) for numbers in found)
        other = self._fitting(asked, match)
        advice = f"Pass match={other!r}, which fits all keys" if other else "Pass a function as match that tells them apart"
        return MismatchError(f"{self._path}: key {asked[place]!r}: expected one image by match={match!r}, got {both}. {advice}")

    def _unknown(self, asked: Sequence[str], unknown: NDArray[np.bool_], match: Match) -> KeyError:
        first, number = asked[int(unknown.argmax())], int(unknown.sum())
        got = repr(first) + (f" and {number - 1} more that are unknown, of {len(asked)}" if number > 1 else "")
        nearest = ", ".join(map(repr, self.nearest(first))) or "none"
        other = self._fitting(asked, match)
        advice = f"Pass match={other!r}, which fits all keys" if other else "Pass missing=-1 to get -1 for unknown keys"
        return KeyError(f"{self._path}: keys: expected keys of labelled images by match={match!r}, got {got}. Nearest: {nearest}. {advice}")

    def nearest(self, key: str) -> list[str]:
        """Return the three stored keys that are most like a key: of all if they are few, else of its neighbours and a sample."""
        compared = dict.fromkeys(self._keys.spread(_COMPARED_KEYS)) | dict.fromkeys(self._keys.around(key, _COMPARED_KEYS))
        matcher = SequenceMatcher(autojunk=False, b=key[-_COMPARED_CHARACTERS:])

        def likeness(stored: str) -> float:
            matcher.set_seq1(stored[-_COMPARED_CHARACTERS:])
            return matcher.ratio()

        return nlargest(3, compared, key=likeness)


class _Rule(NamedTuple):
    """When a stored key fits a key asked for: if a name of one is a name of the other."""

    stored: Names
    asked: Names


class _Found(NamedTuple):
    """The number of the image that each key fits, and that of a second one; -1 if there is none. Both int64 (B,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]

    @classmethod
    def nothing(cls, num_keys: int) -> _Found:
        """Return that nothing was found."""
        return cls(np.full(num_keys, -1), np.full(num_keys, -1))

    def put(self, places: NDArray[np.int64], keys: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        """Note pairs of a key, which is that of `places[key]`, and the number of an image that it fits; in ascending order."""
        start, count = np.unique(keys, return_index=True, return_counts=True)[1:]
        self.first[places[keys[start]]] = numbers[start]
        second = start[count > 1] + 1
        self.second[places[keys[second]]] = numbers[second]

    def is_complete(self) -> bool:
        """Return whether each key fits exactly one image."""
        return bool((self.first >= 0).all() and (self.second < 0).all())


class _Names(NamedTuple):
    """The names of keys: 128 bits of the BLAKE2 of each, in two words, and which key has it. Keys with equal bits have equal names."""

    word: NDArray[np.uint64]
    other_word: NDArray[np.uint64]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, keys: Iterable[str], names: Names) -> _Names:
        """Return the names of keys in the order of these."""
        digests, owners = bytearray(), array("q")
        for number, key in enumerate(keys):
            for name in names(key):
                digests += blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                owners.append(number)
        words = np.frombuffer(digests, np.uint64).reshape(-1, 2)
        return cls(words[:, 0], words[:, 1], np.frombuffer(owners, np.int64))

    def in_order(self) -> _Names:
        """Return the same names in ascending order of the first word."""
        order = np.argsort(self.word, kind="stable")
        return _Names(self.word[order], self.other_word[order], self.owner[order])

    def pairs(self, asked: _Names) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return pairs of owners that share a name, of one asked for and one of these, which are in order: each once, ascending."""
        start = self.word.searchsorted(asked.word)
        count = np.minimum(self.word.searchsorted(asked.word, side="right") - start, _MOST_OF_A_NAME)
        within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
        mine, theirs = np.repeat(start, count) + within, np.repeat(np.arange(len(count)), count)
        same = self.other_word[mine] == asked.other_word[theirs]
        pairs = np.unique(np.stack([asked.owner[theirs[same]], self.owner[mine[same]]]), axis=1)
        return pairs[0], pairs[1]


def _as_it_is(key: str) -> tuple[str, ...]:
    return (key,)


def _with_and_without_ending(key: str) -> tuple[str, ...]:
    stem = _stem(key)
    return (key,) if stem == key else (key, stem)


def _stems(key: str) -> tuple[str, ...]:
    """Return a key without its ending, and cut at the first dot of its file name, as WebDataset does."""
    stem = _stem(key)
    dot = stem.find(".", stem.rfind("/") + 2)
    return (stem,) if dot < 0 else (stem, stem[:dot])


def _stem(key: str) -> str:
    """Return a key without its ending: a dot, a letter, and letters and digits, at the end of a file name that has more than that."""
    name, _, ending = key.rpartition(".")
    return name if ending.isalnum() and ending[0].isalpha() and name and not name.endswith("/") else key


def _of_file_name(names: Names) -> Names:
    return lambda key: names(key.rpartition("/")[2])


_RULES: Mapping[str, Sequence[_Rule]] = {
    "exact": [_Rule(_as_it_is, _as_it_is)],
    "stem": [_Rule(_stems, _with_and_without_ending)],
    "basename": [
        _Rule(_of_file_name(_as_it_is), _of_file_name(_as_it_is)),
        _Rule(_of_file_name(_stems), _of_file_name(_with_and_without_ending)),
    ],
}


def _rules(match: Match) -> Sequence[_Rule]:
    if isinstance(match, str) and match in _RULES:
        return _RULES[match]
    if not callable(match):
        raise ArgumentError(f"match: expected {', '.join(_RULES)} or a function, got {match!r}")

    def name(key: str) -> tuple[str, ...]:
        changed = match(key)
        if not isinstance(changed, str):
            raise ArgumentError(f"match: expected a function that returns a str, got {changed!r} for {key!r}")
        return (changed,)

    return [_Rule(name, name)]


def _check_keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise ArgumentError(f"keys: expected a sequence of keys, got {keys!r}")
    asked = list(keys)
    wrong = next((key for key in asked if not isinstance(key, str)), None)
    if wrong is not None:
        raise ArgumentError(f"keys: expected a sequence of str, got {wrong!r} in it")
    return asked


def _check_missing(missing: int | None) -> int:
    number = -1 if missing is None else whole(missing)
    if number is None or not -(2**63) <= number < 0:
        raise ArgumentError(f"missing: expected a negative integer, which is the number of no image, got {missing!r}")
    return number
