"""What the accuracy experiment trains: the rows of its tables, and how large everything is at each scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softlabel_codec.quantise.neighbours import NEIGHBOURS

HERE = Path(__file__).parent
NETWORKS = HERE / "networks.py"
TRUTH, ONLINE, MAPS, VIEWS = "truth", "online", "maps", "views"
FULL = "dense:values=f32"
DEFAULT = "marginal_smoothing:k=5"
TAIL = "marginal_smoothing:t=0.05,tail=100"
TAILS = ("marginal_smoothing:t=0.1,tail=30", TAIL, "marginal_smoothing:t=0.02,tail=100")
FIELD = "field:step=0.35,cost=0.0005"
LOGARITHMS = "dense:values=log8"
LOG_TAIL = "marginal_smoothing:t=0.1,step=1,tail=all,mean=log"
SOFTENED = (FIELD, LOGARITHMS, LOG_TAIL)
"""Codecs whose labels are made at T = 1 and softened in reading."""
CODECS = (FULL, DEFAULT, "marginal_smoothing:k=10", *TAILS, "marginal_renorm:k=5", "smoothing", "hard")
SURE, UNSURE, IMAGENET = "sure", "unsure", "imagenet"
ALL, FEW, PADDED = "all", "few", "padded"
STORED_CROPS = (4, 10, 25)
MOST_CROPS = 50
MOST_OF_FEW = 200
"""Stored crops of each of the few images."""
CROPS_PER_IMAGE = (1, 2, 8, 16)
FEW_DRAWS, MANY_DRAWS = 30, 360
"""Draws of each of the few images in a short and a long schedule."""
USUAL_CROPS_PER_IMAGE = 4
HIGH_TEMPERATURE = 4.0
MIXUP = 0.2


@dataclass(frozen=True)
class Row:
    """Students of one kind, which differ in their seed only.

    Attributes
    ----------
    source : str
        A codec; or `truth`, the classes; `online`, the teacher in every step; `maps`, label maps; `views`, all views of a padded
        image, stored with `FULL`.
    teacher : str
        Who labels: `sure`, `unsure` or `imagenet`; empty for `truth`.
    images : str
        `all`; `few`, a tenth of them for ten times as many draws; `padded`, the few with a margin of two pixels.
    stored : int
        Stored crops of each image, M; 0 where none are stored.
    crops_per_image : int
        Crops of an image that are taken at a time, N.
    temperature : float
        Of the labels and the student.
    mixup : float
        Alpha of mixup.
    student : str
        `usual` or `large`.
    fitted_only : bool
        Whether only the crops that a field was fitted to are drawn, and not crops without end.
    policy : str
        How remainders are read; empty: as the codec says.
    draws : int
        Epochs; 0: as many as is usual for these images.
    """

    source: str
    teacher: str = SURE
    images: str = ALL
    stored: int = MOST_CROPS
    crops_per_image: int = USUAL_CROPS_PER_IMAGE
    temperature: float = 1.0
    mixup: float = 0.0
    student: str = "usual"
    fitted_only: bool = False
    policy: str = ""
    draws: int = 0

    def __post_init__(self) -> None:
        if self.source in (TRUTH, ONLINE, MAPS):
            object.__setattr__(self, "stored", 0)
        if self.source == TRUTH:
            object.__setattr__(self, "teacher", "")

    @property
    def made_at(self) -> float:
        """Temperature at which the labels are made; those of some codecs are softened to that of the student in reading."""
        return 1.0 if self.source in SOFTENED else self.temperature


@dataclass(frozen=True)
class Scale:
    """How large the experiment is.

    Attributes
    ----------
    images_per_class, few_per_class : int or None
        Training images of each class in `all` and in `few`; None: as many as there are.
    groups : sequence of mappings of Row to int
        What is trained, with how many seeds each; what matters most comes first. No row is in two of them.
    teachers : mapping of str to dict
        Options of the training of each teacher; `student`, its network, alone where it needs no training.
    students : mapping of str to dict
        Options of the training of each kind of student.
    few_epochs, padded_epochs : int
        Epochs on few images, and on padded ones.
    device : str
        Where it is meant to run.
    common : dict
        Options of teachers and students.
    """

    images_per_class: int | None
    few_per_class: int
    groups: Sequence[Mapping[Row, int]]
    teachers: Mapping[str, dict[str, Any]]
    students: Mapping[str, dict[str, Any]]
    few_epochs: int
    padded_epochs: int
    device: str
    common: dict[str, Any] = field(default_factory=dict)

    def runs(self) -> Iterator[tuple[Row, int]]:
        """Yield all rows and seeds, group by group: of each group those of one seed before those of the next, so that pairs grow evenly."""
        for group in self.groups:
            for seed in range(max(group.values())):
                yield from ((row, seed) for row, seeds in group.items() if seed < seeds)


def _few() -> Iterator[Row]:
    for source in (TRUTH, ONLINE):
        yield Row(source, images=FEW)
    for stored in (*STORED_CROPS, MOST_CROPS, MOST_OF_FEW):
        yield from (Row(source, images=FEW, stored=stored) for source in (FULL, TAIL))
    yield from (Row(DEFAULT, images=FEW, stored=stored) for stored in (10, MOST_CROPS, MOST_OF_FEW))
    yield from (Row(FIELD, images=FEW, stored=stored) for stored in (MOST_CROPS, MOST_OF_FEW))
    yield from _others(SURE, MOST_OF_FEW)


def _few_softened() -> Iterator[Row]:
    for source in (FULL, ONLINE, DEFAULT, TAIL, FIELD, LOGARITHMS, LOG_TAIL):
        yield Row(source, images=FEW, stored=MOST_OF_FEW, temperature=HIGH_TEMPERATURE)


def _fields() -> Iterator[Row]:
    """Yield what fields are compared with where images are few, at both temperatures."""
    stored: dict[str, Any] = {"teacher": UNSURE, "images": FEW, "stored": MOST_CROPS}
    for source in (TRUTH, ONLINE, FULL, DEFAULT, TAIL, FIELD):
        yield Row(source, **stored)
    yield Row(FIELD, **stored, fitted_only=True)
    for source in (ONLINE, FULL, DEFAULT, TAIL, FIELD, LOG_TAIL):
        yield Row(source, **stored, temperature=HIGH_TEMPERATURE)


def _others(teacher: str, stored: int) -> Iterator[Row]:
    """Yield what else few images are trained from: top classes with a guess of the others, and logits of 8 bits."""
    yield Row(DEFAULT, teacher, FEW, stored, policy=NEIGHBOURS)
    yield from (Row(LOGARITHMS, teacher, FEW, stored, temperature=temperature) for temperature in (1.0, HIGH_TEMPERATURE))


def _few_crops(teacher: str) -> Iterator[Row]:
    yield from (Row(source, teacher, FEW, stored) for stored in STORED_CROPS for source in (FULL, TAIL))


def _exact(teacher: str) -> Iterator[Row]:
    yield from (Row(source, teacher, PADDED, stored=0, crops_per_image=1) for source in (VIEWS, ONLINE))


def _main(teacher: str) -> Iterator[Row]:
    yield from (Row(source, teacher) for source in (FULL, TRUTH, ONLINE, DEFAULT, TAIL))


def _codecs(teacher: str) -> Iterator[Row]:
    yield from (Row(source, teacher) for source in (MAPS, *CODECS[1:]))


def _crops() -> Iterator[Row]:
    yield from (Row(source, stored=stored) for stored in STORED_CROPS for source in (FULL, TAIL, DEFAULT))


def _settings() -> Iterator[Row]:
    for source in (FULL, DEFAULT, *TAILS[1:]):
        yield Row(source, temperature=HIGH_TEMPERATURE)
    for source in (FULL, TRUTH, DEFAULT, TAIL):
        yield Row(source, mixup=MIXUP)
    yield from (Row(source, crops_per_image=number) for number in CROPS_PER_IMAGE for source in (TAIL, TRUTH))


def _large() -> Iterator[Row]:
    yield from (Row(source, student="large") for source in (FULL, TRUTH, TAIL, DEFAULT))


def _groups(seeds: Iterable[int]) -> tuple[dict[Row, int], ...]:
    """Return the groups of all rows; the numbers are the seeds of each."""
    kinds = (
        _few(),
        _few_softened(),
        _exact(SURE),
        _main(SURE),
        _main(UNSURE),
        _large(),
        _settings(),
        _crops(),
        _codecs(SURE),
        _codecs(UNSURE),
    )
    known: set[Row] = set()
    groups = []
    for rows, number in zip(kinds, seeds, strict=True):
        groups.append({row: number for row in rows if row not in known})
        known |= groups[-1].keys()
    return tuple(groups)


def _schedules() -> Iterator[Row]:
    for draws in (FEW_DRAWS, MANY_DRAWS):
        yield from (Row(FULL, UNSURE, FEW, stored, draws=draws) for stored in (STORED_CROPS[0], MOST_CROPS))


def _of_imagenet() -> Iterator[Row]:
    yield from (Row(source, IMAGENET, FEW, stored=STORED_CROPS[-1]) for source in (FULL, DEFAULT, TAIL))


def _other_settings() -> Iterator[Row]:
    """Yield few images with mixup, other numbers of crops at a time, and the larger student."""
    few: dict[str, Any] = {"teacher": UNSURE, "images": FEW}
    yield from (Row(source, **few, mixup=MIXUP) for source in (FULL, DEFAULT))
    yield from (Row(TAIL, **few, crops_per_image=number) for number in (1, USUAL_CROPS_PER_IMAGE, CROPS_PER_IMAGE[-1]))
    yield from (Row(source, **few, student="large") for source in (FULL, DEFAULT))


_SGD = {"optimizer": "sgd", "nesterov": True, "weight_decay": 5e-4, "warmup_epochs": 2.0}
_ADAM = {"optimizer": "adamw", "weight_decay": 0.05, "warmup_epochs": 1.0}
_SMALL_TEACHER = {"student": f"{NETWORKS}:small_teacher", "epochs": 30, "batch_size": 128, "learning_rate": 4e-3, **_ADAM}
_SMALL_STUDENT = {"student": f"{NETWORKS}:small_student", "epochs": 20, "batch_size": 256, "learning_rate": 8e-3, **_ADAM}

SCALES = {
    "gpu": Scale(
        images_per_class=None,
        few_per_class=22,
        groups=_groups((5, 5, 8, 5, 5, 3, 5, 5, 5, 5)),
        teachers={
            UNSURE: _SMALL_TEACHER,
            SURE: {"student": f"{NETWORKS}:resnet18", "epochs": 60, "batch_size": 512, "learning_rate": 0.4, **_SGD},
        },
        students={
            "usual": {"student": f"{NETWORKS}:resnet10", "epochs": 40, "batch_size": 512, "learning_rate": 0.4, **_SGD},
            "large": {"student": f"{NETWORKS}:resnet18", "epochs": 40, "batch_size": 512, "learning_rate": 0.4, **_SGD},
        },
        few_epochs=400,
        padded_epochs=150,
        device="cuda",
        common={"size": 32, "in_memory": True, "checkpoint_epochs": 10},
    ),
    "cpu": Scale(
        images_per_class=None,
        few_per_class=22,
        groups=tuple(dict.fromkeys(rows, 5) for rows in (_fields(), _exact(UNSURE), (*_few_crops(UNSURE), *_others(UNSURE, MOST_CROPS)))),
        teachers={UNSURE: _SMALL_TEACHER},
        students={"usual": _SMALL_STUDENT},
        few_epochs=120,
        padded_epochs=150,
        device="cpu",
        common={"size": 32},
    ),
    "settings": Scale(
        images_per_class=None,
        few_per_class=22,
        groups=tuple(dict.fromkeys(rows, 5) for rows in (_schedules(), _of_imagenet(), _other_settings())),
        teachers={UNSURE: _SMALL_TEACHER, IMAGENET: {"student": f"{HERE / 'imagenet_teacher.py'}:build"}},
        students={"usual": _SMALL_STUDENT, "large": {**_SMALL_STUDENT, "student": f"{NETWORKS}:small_teacher"}},
        few_epochs=120,
        padded_epochs=0,
        device="cpu",
        common={"size": 32},
    ),
    "check": Scale(
        images_per_class=4,
        few_per_class=2,
        groups=_groups((1,) * 10),
        teachers={
            UNSURE: {"student": f"{NETWORKS}:small_teacher", "epochs": 2, "batch_size": 64, "learning_rate": 4e-3, **_ADAM},
            SURE: {"student": f"{NETWORKS}:resnet18", "epochs": 1, "batch_size": 64, "learning_rate": 0.1, **_SGD},
        },
        students={
            "usual": {"student": "small", "epochs": 1, "batch_size": 64, "learning_rate": 8e-3, **_ADAM, "warmup_epochs": 0.0},
            "large": {"student": "small", "epochs": 1, "batch_size": 64, "learning_rate": 8e-3, **_ADAM, "warmup_epochs": 0.0},
        },
        few_epochs=1,
        padded_epochs=1,
        device="cpu",
        common={"size": 32, "in_memory": True},
    ),
}
