"""What a labelling run reports."""

from __future__ import annotations

from dataclasses import dataclass

from softlabel_codec.choosing import CodecChoice


@dataclass(frozen=True)
class MadeShard:
    """What is in a finished shard, and how much of it there was before."""

    images: int
    resumed: int
    skipped: dict[str, str]
    file_bytes: int


@dataclass(frozen=True)
class SetProgress:
    """What a worker did for a label set, and how far the set was when it ended.

    Attributes
    ----------
    finished : bool
        Whether the set is complete, with its index.
    num_shards : int
        Shards of the set.
    made : list of int
        Shards that this worker has finished.
    being_made : dict
        Shards that others are making, and who: machine, process, job, since when, last sign of life.
    missing : list of int
        Shards that are neither finished nor being made.
    """

    finished: bool
    num_shards: int
    made: list[int]
    being_made: dict[int, str]
    missing: list[int]


@dataclass(frozen=True)
class EncodeReport:
    """The result of a labelling run. If it was one of the workers of a label set, numbers are those of the shards that it made.

    Attributes
    ----------
    path : str
        The finished file; of a set its index, or the folder if it is not complete.
    num_images : int
        Images in it.
    resumed_images : int
        Images among them that an earlier, interrupted run had labelled; all, if it had finished the file.
    crops_per_image : int or float
        Crops of each; the mean, if images have different numbers.
    skipped : dict
        Keys of unreadable images, and the reasons.
    other_files : list of str
        Files in a folder that were left out because they are not named like images.
    file_bytes : int
        Size of the file.
    seconds : float
        Time of this run.
    finished_before : bool
        Whether the file, or the whole set, was finished already, by an earlier run with the same options.
    label_set : SetProgress, optional
        How far the set is; None of a file.
    codec_choice : CodecChoice, optional
        What was tried and chosen, if this run chose the codec.
    """

    path: str
    num_images: int
    resumed_images: int
    crops_per_image: int | float
    skipped: dict[str, str]
    other_files: list[str]
    file_bytes: int
    seconds: float
    finished_before: bool = False
    label_set: SetProgress | None = None
    codec_choice: CodecChoice | None = None
