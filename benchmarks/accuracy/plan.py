"""What the accuracy experiment trains: sources, ablations, and how large everything is at each scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REFERENCE = "dense:values=f32"
DEFAULT = "marginal_smoothing:k=5"
TAILS = ("marginal_smoothing:t=0.1,tail=30", "marginal_smoothing:t=0.05,tail=100")
QUOTED = ("truth", "online", REFERENCE, DEFAULT, *TAILS)
"""Rows that the README quotes: they get more seeds."""
CODECS = (
    REFERENCE,
    "dense:values=f16",
    DEFAULT,
    "marginal_smoothing:k=5,values=f32",
    "marginal_smoothing:k=5,values=f16",
    "marginal_smoothing:k=5,step=0.125",
    "marginal_smoothing:k=5,step=0.25",
    "marginal_smoothing:k=10",
    "marginal_smoothing:t=0.02",
    *TAILS,
    "marginal_renorm:k=5",
    "smoothing",
    "hard",
)
OTHERS = ("truth", "online", "maps")
USUAL_CROPS_PER_IMAGE = 4
CROPS_PER_IMAGE = (1, 2, USUAL_CROPS_PER_IMAGE, 8, 16)
STORED_CROPS = (10, 25, 50, 100)


@dataclass(frozen=True)
class Scale:
    """How large the experiment is.

    Attributes
    ----------
    images_per_class : int or None
        Training images of each class; None: all.
    crops : int
        Stored crops of each image.
    seeds, quoted_seeds : int
        Students of each row, and of those that the README quotes.
    ablations : bool
        Whether the numbers of crops are varied too.
    teacher, student : dict
        Options of their training.
    device : str
        Where it is meant to run.
    """

    images_per_class: int | None
    crops: int
    seeds: int
    quoted_seeds: int
    ablations: bool
    teacher: dict[str, Any]
    student: dict[str, Any]
    device: str
    common: dict[str, Any] = field(default_factory=dict)


_SGD = {"optimizer": "sgd", "nesterov": True, "weight_decay": 5e-4, "warmup_epochs": 2.0}
_ADAM = {"optimizer": "adamw", "weight_decay": 0.05, "warmup_epochs": 1.0}
_NETWORKS = HERE / "networks.py"

SCALES = {
    "gpu": Scale(
        images_per_class=None,
        crops=100,
        seeds=3,
        quoted_seeds=5,
        ablations=True,
        teacher={"student": f"{_NETWORKS}:resnet34", "epochs": 100, "batch_size": 512, "learning_rate": 0.4, **_SGD},
        student={"student": f"{_NETWORKS}:resnet18", "epochs": 40, "batch_size": 512, "learning_rate": 0.4, **_SGD},
        device="cuda",
        common={"size": 64, "val_crop": 1.0, "in_memory": True},
    ),
    "cpu": Scale(
        images_per_class=None,
        crops=100,
        seeds=1,
        quoted_seeds=5,
        ablations=False,
        teacher={"student": f"{_NETWORKS}:small_teacher", "epochs": 30, "batch_size": 128, "learning_rate": 4e-3, **_ADAM},
        student={"student": f"{_NETWORKS}:small_student", "epochs": 20, "batch_size": 256, "learning_rate": 8e-3, **_ADAM},
        device="cpu",
        common={"size": 32, "val_crop": 1.0},
    ),
    "check": Scale(
        images_per_class=4,
        crops=16,
        seeds=1,
        quoted_seeds=2,
        ablations=True,
        teacher={"student": f"{_NETWORKS}:small_teacher", "epochs": 2, "batch_size": 64, "learning_rate": 4e-3, **_ADAM},
        student={"student": "small", "epochs": 1, "batch_size": 64, "learning_rate": 8e-3, **_ADAM, "warmup_epochs": 0.0},
        device="cpu",
        common={"size": 32, "val_crop": 1.0},
    ),
}


@dataclass(frozen=True)
class Cell:
    """A run of the experiment: a source, what differs from the others, and a seed."""

    source: str
    varied: tuple[tuple[str, int], ...]
    seed: int

    @property
    def name(self) -> str:
        """What its result is called."""
        parts = [self.source.replace(":", "-").replace(",", "-"), *(f"{name}={value}" for name, value in self.varied), f"seed={self.seed}"]
        return "__".join(parts)


def cells(scale: Scale) -> Iterator[Cell]:
    """Yield all runs; those of one seed before those of the next, so that a part of the experiment is a small whole one."""
    for seed in range(max(scale.seeds, scale.quoted_seeds)):
        for source in (*OTHERS, *CODECS):
            if seed < (scale.quoted_seeds if source in QUOTED else scale.seeds):
                yield Cell(source, (), seed)
        if scale.ablations and seed < scale.seeds:
            yield from (Cell(DEFAULT, (("crops_per_image", value),), seed) for value in CROPS_PER_IMAGE if value != USUAL_CROPS_PER_IMAGE)
            yield from (Cell(DEFAULT, (("stored_crops", value),), seed) for value in STORED_CROPS if value < scale.crops)
