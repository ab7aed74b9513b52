"""`choose_codec`: the codec that fits labels of a pilot best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softlabel_codec.checks.arguments import check_temperature
from softlabel_codec.checks.wording import counted
from softlabel_codec.choosing.asked import Asked
from softlabel_codec.choosing.pilot import Layout, Pilot
from softlabel_codec.choosing.search import Search
from softlabel_codec.choosing.trials import Trial
from softlabel_codec.padding import NO_PADDING, Padding
from softlabel_codec.views import Sampler


@dataclass(frozen=True)
class CodecChoice:
    """A codec that was chosen.

    Attributes
    ----------
    codec : str
        The codec string.
    crops_per_image : int
        How many crops of each image are to be stored.
    bytes_per_image : float
        What an image of the pilot takes in a file: labels, crops, key and its part of the index.
    lost : float
        What its labels lose: the mean over crops of KL(p || q) divided by that of KL(p || uniform), p being the teacher's labels and q
        those that are read back. Of label fields, on crops that they were not made from.
    asked : dict
        What was asked for: `fidelity`; or `bytes_per_image`, and `draws` if it was given.
    temperature : float
        Temperature of the training, at which that was measured.
    pilot_images : int
        Images of the pilot.
    tried : list of Trial
        The best of each way to store labels. What is far from what was asked for was measured on a part of the pilot.
    """

    codec: str
    crops_per_image: int
    bytes_per_image: float
    lost: float
    asked: dict[str, float]
    temperature: float
    pilot_images: int
    tried: list[Trial]

    def described(self) -> dict[str, Any]:
        """Return what a file says of the choice in its metadata, under `codec_choice` (spec/container-v1.md, section 4.1)."""
        found = {"lost": float(f"{self.lost:.3g}"), "bytes_per_image": round(self.bytes_per_image, 1)}
        return {"asked": dict(self.asked), "temperature": self.temperature, "pilot_images": self.pilot_images, **found}

    def lines(self) -> list[str]:
        """Return about six lines of text: what was tried, and what was chosen and why."""
        share = self.asked.get("fidelity")
        if share is not None:
            why = f"the fewest bytes that lose at most {100 * share:.3g} %"
        else:
            why = f"the least loss in {self.asked['bytes_per_image']:g} bytes per image"
        first = f"codec auto: {why} at T = {self.temperature:g}, by the labels of {counted(self.pilot_images, 'image')}"
        width = max(len(trial.codec) for trial in self.tried)
        rows = [f"  {trial.codec:<{width}}  {trial}" for trial in self.tried]
        return [first, *rows, f"chosen: {self.codec}, {counted(self.crops_per_image, 'crop')} per image"]


def choose_codec(
    pilot: Mapping[str, Mapping[str, Any]],
    num_classes: int,
    *,
    fidelity: float | str | None = None,
    bytes_per_image: float | None = None,
    draws: int | None = None,
    fixed_crops: bool = False,
    temperature: float = 1.0,
    train_temperature: float | None = None,
    crops: str = "pixels",
    sampler: Sampler | None = None,
    image_checksums: bool = False,
    padding: Padding = NO_PADDING,
) -> CodecChoice:
    """Return the codec that takes the fewest bytes of those that lose little, or loses least of those that take few bytes.

    The labels of a pilot, some hundred images spread over all, are written in the codecs of all families and read back. The same pilot
    gives the same choice.

    Parameters
    ----------
    pilot : mapping
        For each image, by its key, what `SoftLabelWriter.add` takes; its labels as `probs` (M, C).
    num_classes : int
        C.
    fidelity : float or str
        The largest share that may be lost, such as 0.04 or "4%", which is the default. See `CodecChoice.lost`.
    bytes_per_image : float
        In place of `fidelity`: the most bytes that an image may take. The number of crops is chosen as well, 5, 10, 20, 50, 100 or 200,
        if the pilot has so many: fewer crops leave more bytes to each. Where images are drawn more than 80 times, 5 crops count as 5 %
        lost, 10 as 3 % and 20 as 1 %, but not those of label fields, which have crops without end.
    draws : int
        With `bytes_per_image`: how often each image will be drawn, epochs times crops per image. No more crops are stored. By default it
        is taken to be many times.
    fixed_crops : bool
        With `bytes_per_image`: all crops of the pilot's images are to be stored, and only the codec is chosen.
    temperature : float
        T of softmax(logits / T) of the probabilities.
    train_temperature : float, optional
        The one at which students learn from them, if it is another one: labels are then made softer as they are read.
    crops, sampler, image_checksums, padding
        Those that `SoftLabelWriter` will be given.

    Raises
    ------
    ArgumentError
        If an argument is not as described, or nothing is as small as `bytes_per_image`.
    LimitError
        As for `SoftLabelWriter.add`.

    Examples
    --------
    >>> import numpy as np
    >>> probs = np.random.default_rng(0).dirichlet(np.ones(10) / 5, size=8).astype(np.float32)
    >>> crops, flips = [[0, 0, 20, 20 + number] for number in range(8)], [False] * 8
    >>> pilot = {f"{number}.jpg": {"image_size": (60, 80), "crops": crops, "flips": flips, "probs": probs} for number in range(4)}
    >>> choose_codec(pilot, num_classes=10, fidelity="5%").lost < 0.05
    True
    """
    asked = Asked.of(fidelity, bytes_per_image, draws, fixed_crops)
    trained_at = temperature if train_temperature is None else train_temperature
    power = check_temperature(temperature) / check_temperature(trained_at, "train_temperature")
    labels = Pilot.of(pilot, num_classes, Layout(crops, sampler, image_checksums, padding), power)
    search = Search(labels, asked)
    chosen = search.best()
    return CodecChoice(
        chosen.codec,
        chosen.crops_per_image,
        chosen.bytes_per_image,
        chosen.lost,
        asked.described(),
        float(trained_at),
        len(labels),
        search.best_of_each(chosen),
    )
