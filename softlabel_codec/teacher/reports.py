"""What a labelling run reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodeReport:
    """The result of a labelling run.

    Attributes
    ----------
    path : str
        The finished file.
    num_images : int
        Images in it.
    resumed_images : int
        Images among them that an earlier, interrupted run had labelled; all, if it had finished the file.
    crops_per_image : int
        Crops of each.
    skipped : dict
        Keys of unreadable images, and the reasons.
    other_files : list of str
        Files in a folder that were left out because they are not named like images.
    file_bytes : int
        Size of the file.
    seconds : float
        Time of this run.
    finished_before : bool
        Whether the file was finished already, by an earlier run with the same options.
    """

    path: str
    num_images: int
    resumed_images: int
    crops_per_image: int
    skipped: dict[str, str]
    other_files: list[str]
    file_bytes: int
    seconds: float
    finished_before: bool = False
