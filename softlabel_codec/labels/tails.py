"""`Tails`: how the probability that crops leave out is distributed over the classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.labels.rows import Rows


@dataclass(frozen=True, eq=False)
class Tails:
    """Tails of I images: how the probability that the crops left out is distributed over the classes (spec/sparse-v1.md, section 6).

    Attributes
    ----------
    classes : int32 (I, N)
        Listed classes of each image, ascending, padded with -1 at the end.
    weights : float32 (I, N)
        Share of each listed class; padding is 0.
    floor : float32 (I,)
        Share of every class that is not listed. Over all classes the shares of an image add up to 1.
    slopes : float32 (I, C) or None
        With `tail=all`, which lists all classes: by how much the logarithm of a weight grows from a crop that does not keep the main
        class, which has that of `weights`, to one that is sure of it (spec/sparse-v1.md, section 6.2). None if all crops of an image
        have one tail.
    main_class : int32 (I,) or None
        The main class of each image, if there are slopes.
    """

    classes: NDArray[np.int32]
    weights: NDArray[np.float32]
    floor: NDArray[np.float32]
    slopes: NDArray[np.float32] | None = None
    main_class: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.floor)

    def __getitem__(self, images: Rows) -> Tails:
        """Return the tails of some images (a slice or an index array)."""
        chosen = Tails(self.classes[images], self.weights[images], self.floor[images])
        if self.slopes is None or self.main_class is None:
            return chosen
        return replace(chosen, slopes=self.slopes[images], main_class=self.main_class[images])

    def dense(self, num_classes: int) -> NDArray[np.float32]:
        """Return the weights of all classes, float32 (I, C); with slopes, those for a crop that does not keep the main class."""
        weights = np.repeat(self.floor[:, None], num_classes, axis=1)
        images, places = np.nonzero(self.classes >= 0)
        weights[images, self.classes[images, places]] = self.weights[images, places]
        return weights

    def of_crops(self, images: NDArray[np.int64], of_main: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weights (R, N), of any sum, of listed classes for crops of images (R,) in which the main class has values (R,)."""
        weights = self.weights[images]
        return weights if self.slopes is None else np.asarray(weights * np.exp(self.slopes[images] * of_main[:, None]), np.float32)

    def weights_of(self, images: NDArray[np.int64], classes: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return the weights of classes (R, K) in the tails of images (R,), float32 (R, K); 0 for the class -1."""
        places = self.places_of(images, classes)
        listed = np.take_along_axis(self.weights[images], np.maximum(places, 0), axis=1)
        weights = np.where(places >= 0, listed, self.floor[images][:, None])
        return np.where(classes >= 0, weights, 0).astype(np.float32)

    def places_of(self, images: NDArray[np.int64], classes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return where classes (R, K) are listed in the tails of images (R,), int64 (R, K): a column of `classes`; -1 if they are not."""
        span = int(max(self.classes.max(initial=0), classes.max(initial=0))) + 2
        image, place = np.nonzero(self.classes >= 0)
        if not len(place):
            return np.full(classes.shape, -1)
        known = image * span + self.classes[image, place]  # ascending
        wanted = images[:, None] * span + classes
        found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where((known[found] == wanted) & (classes >= 0), place[found], -1)
