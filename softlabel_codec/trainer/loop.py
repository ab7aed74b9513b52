"""The training loop, from top to bottom: set up, train epoch by epoch, evaluate and write a checkpoint after an epoch, report."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from softlabel_codec.checks.interrupted import Interrupted
from softlabel_codec.checks.wording import counted
from softlabel_codec.container.whole_files import write_json
from softlabel_codec.errors import StateError
from softlabel_codec.evaluate.evaluator import LOWER_THE_RATE
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.students.weights import save_state, save_weights
from softlabel_codec.torch import DenseTargets, FeatureTargets, normalize, soft_cross_entropy
from softlabel_codec.torch.device import ImageMemory
from softlabel_codec.torch.targets import Targets
from softlabel_codec.torch.workers import workers_watched
from softlabel_codec.trainer.batches import Batch, Loader
from softlabel_codec.trainer.checkpoint import CHECKPOINT, load_checkpoint, refuse_begun
from softlabel_codec.trainer.draws import check_draws
from softlabel_codec.trainer.log import RunLog
from softlabel_codec.trainer.mixing import mix_crops
from softlabel_codec.trainer.processes import Processes, processes
from softlabel_codec.trainer.setup import make_evaluator, make_online_teachers, make_optimizer, make_student, set_up

Progress = Callable[[int, int], None]
RESULT, WEIGHTS = "result.json", "weights.pt"
STEPS_BETWEEN_CHECKS = 50
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """The outcome of a run.

    Attributes
    ----------
    out : str
        Its folder: `checkpoint.pt`, `log.jsonl`, `result.json`, and `weights.pt`, the student's `state_dict` (averaged, with `ema`),
        with `weights.json`, which says how images are prepared for it.
    epochs, steps : int
        How much was trained, earlier parts of a continued run included.
    loss : float
        Mean loss of the last epoch.
    seconds, data_seconds : float
        Time of the epochs, and how much of it this process waited for data. (Meanwhile, a CUDA device works on the steps before.)
    evaluation : dict or None
        What was measured on the validation images after the last epoch: see `Evaluation`.
    """

    out: str
    epochs: int
    steps: int
    loss: float
    seconds: float
    data_seconds: float
    evaluation: dict[str, Any] | None


def train(config: TrainConfig, progress: Progress | None = None, memory: ImageMemory | None = None) -> TrainReport:
    """Train a student. With `torchrun`, call it in every process.

    Parameters
    ----------
    config : TrainConfig
        The options of the run.
    progress : callable, optional
        Called with the number of steps done so far and in all.
    memory : ImageMemory, optional
        Images that earlier runs have left in the device's memory, for `in_memory`.

    Raises
    ------
    ArgumentError, MismatchError, FormatError
        If labels, images, checkpoint and options do not belong together. Nothing has been trained then.
    StateError
        If the folder holds a run that is not to be continued, a worker process was killed, or loss or weights are not finite any more.
        The last checkpoint stays.
    """
    with processes(config.device) as here, workers_watched():
        return _train(Run(config, here, memory or ImageMemory()), progress or (lambda done, total: None))


class Run:
    """A run and its progress. With `resume`, it continues from its checkpoint if there is one.

    Parameters
    ----------
    config : TrainConfig
        Its options.
    here : Processes
        This process among those of the run.
    memory : ImageMemory
        Images that are in the device's memory already.
    """

    def __init__(self, config: TrainConfig, here: Processes, memory: ImageMemory) -> None:
        self.config, self.here, self.folder = config, here, Path(config.out)
        with here.together():
            if here.first and not config.resume:
                refuse_begun(self.folder)
            self.setup = set_up(config)
            check_draws(config, len(self.setup.crops.keys), here.world_size)
            self.student = make_student(config, self.setup, here.device)
            self.teachers = make_online_teachers(config, self.setup, here.device)
            self.loader = Loader(config, self.setup, here, memory)
            self.evaluator = make_evaluator(config, self.setup, here.device, memory) if here.first else None
            self.val = None if self.evaluator is None else self.evaluator.images.sha256()
            if here.first:
                self.folder.mkdir(parents=True, exist_ok=True)
        self.parallel = here.parallel(self.student)  # for the forward pass: averages gradients over all processes
        self.average = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None  # type: ignore[no-untyped-call]
        self.optimizer = make_optimizer(self.student, config)
        self.scaler = torch.amp.GradScaler(here.device.type, enabled=config.precision == "float16")
        self.autocast = _autocast(config.precision, here.device)
        self.first_epoch = 0
        self.kept_epochs = 0  # in the last checkpoint
        self.seconds = self.data_seconds = 0.0
        self.record: dict[str, Any] = {}  # of the last epoch
        self.evaluated: dict[str, Any] = {}  # after the last epoch
        if config.resume:
            state = here.from_first(lambda: load_checkpoint(self.folder, config, self.setup.trained_on, here.world_size))
            if state is not None:
                _continue_from(self, state)

    @property
    def trained(self) -> nn.Module:
        """The network that is evaluated and saved."""
        return self.student if self.average is None else self.average.module


def _train(run: Run, progress: Progress) -> TrainReport:
    """Train the epochs that are left."""
    if run.here.first:
        _log_beginning(run)
    with _saying_what_is_kept(run), _open_log(run) as log:
        for epoch in range(run.first_epoch, run.config.epochs):
            run.record = _train_epoch(run, epoch, progress)
            with run.here.together():
                if log is not None:  # in the first process
                    _end_epoch(run, epoch, log)
    with run.here.together():
        return _finish(run)


def _log_beginning(run: Run) -> None:
    epochs, images = counted(run.config.epochs, "epoch"), counted(len(run.setup.crops.keys), "image")
    earlier = f", {run.first_epoch} of them by an earlier run" if run.first_epoch else ""
    logger.info("%s: training on %s, %s%s", run.config.out, images, epochs, earlier)


def _open_log(run: Run) -> AbstractContextManager[RunLog | None]:
    """Return the log in the first process, which alone writes it."""
    if not run.here.first:
        return nullcontext()
    return closing(RunLog(run.folder, run.config, run.setup.label_facts, run.first_epoch))


@contextmanager
def _saying_what_is_kept(run: Run) -> Iterator[None]:
    """If the block is interrupted, let the exception say how many epochs are in the last checkpoint."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not run.here.first:
            raise
        how = "run the same command again" if run.config.resume else "run it again with resume=True (--resume)"
        kept, are = counted(run.kept_epochs, "epoch"), "is" if run.kept_epochs == 1 else "are"
        text = f"{kept} {are} kept in {run.folder}; {how} to continue" if run.kept_epochs else "No epoch is kept yet"
        raise Interrupted(text) from error


def _train_epoch(run: Run, epoch: int, progress: Progress) -> dict[str, Any]:
    """Train an epoch, and return what the log says about it."""
    config, here, steps = run.config, run.here, len(run.loader)
    rng = np.random.default_rng([config.seed, epoch, here.rank])
    # random numbers of dropout and the like depend on the epoch only: a run may be continued at any epoch
    torch.manual_seed((config.seed * 1_000_003 + epoch * 1009 + here.rank) % 2**63)
    run.student.train()
    losses = torch.zeros((), dtype=torch.float64, device=here.device)
    started = asked = time.perf_counter()
    waited = 0.0
    for step, batch in enumerate(run.loader.batches(epoch)):
        waited += time.perf_counter() - asked
        rate = learning_rate(config, epoch + step / steps, epoch + (step + 1) / steps)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        losses += _step(run, batch, rng)
        if step % STEPS_BETWEEN_CHECKS == 0 or step + 1 == steps:
            _check_loss(run, float(here.mean(losses)) / (step + 1), epoch, step)
        progress(epoch * steps + step + 1, config.epochs * steps)
        asked = time.perf_counter()
    seconds = time.perf_counter() - started
    run.seconds, run.data_seconds = run.seconds + seconds, run.data_seconds + waited
    loss = float(here.mean(losses)) / steps
    return {"epoch": epoch, "steps": steps, "loss": loss, "learning_rate": rate, "seconds": seconds, "data_seconds": waited}


def learning_rate(config: TrainConfig, start: float, end: float) -> float:
    """Return the learning rate of a step from `start` to `end` in epochs.

    It rises in the warm-up, then falls along a half cosine to 0, or to a tenth after each of the milestones.
    """
    if end < config.warmup_epochs:
        return config.learning_rate * end / config.warmup_epochs
    if config.milestones is not None:
        return config.learning_rate * 0.1 ** sum(start >= int(epoch) for epoch in config.milestones)
    rest = max(1e-8, config.epochs - config.warmup_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, start - config.warmup_epochs) / rest)))


def _step(run: Run, batch: Batch, rng: np.random.Generator) -> Tensor:
    """Train on one batch, and return its loss."""
    config, crops = run.config, run.setup.crops
    labels = _targets(run, batch)
    images, mix = mix_crops(normalize(batch.pixels, crops.mean, crops.std), config.crops_per_image, config.mixup, config.cutmix, rng)
    with torch.autocast(run.here.device.type, run.autocast, enabled=run.autocast is not None):
        logits = run.parallel(images.contiguous(memory_format=torch.channels_last)).float()
    loss = _loss(run, logits, labels, batch.classes)
    if mix is not None:
        others = None if batch.classes is None else batch.classes[mix.other]
        loss = mix.share * loss + (1 - mix.share) * _loss(run, logits, labels[mix.other], others)
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average is not None:
        run.average.update_parameters(run.student)
    return loss.detach().double()


def _autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type that the forward pass computes with, if it is not float32."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)


def _targets(run: Run, batch: Batch) -> Targets:
    """Return the targets of a batch: its labels, those that its features are at a temperature, or what the teachers say now."""
    if run.teachers is not None:
        return DenseTargets(run.teachers.probs({run.setup.shape: batch.pixels, **batch.others}).clone())
    if isinstance(batch.labels, FeatureTargets):
        assert run.setup.teacher_temperature is not None  # as `set_up` has checked
        return batch.labels.at(run.setup.teacher_temperature)
    return batch.labels


def _loss(run: Run, logits: Tensor, labels: Targets, classes: Tensor | None) -> Tensor:
    """Return the loss of logits against the labels, and, with `truth_weight`, against the classes.

    The part of the labels is that of Hinton et al. (2015): T^2 times the cross-entropy of both at temperature T. That of features is the
    cross-entropy itself, as student and teacher have temperatures of their own.
    """
    weight, temperature = run.config.truth_weight, run.setup.temperature
    soft = soft_cross_entropy(logits / temperature, labels)
    if run.setup.teacher_temperature is None:
        soft = temperature**2 * soft
    if not weight or classes is None:
        return soft
    return (1 - weight) * soft + weight * cross_entropy(logits, classes)


def _check_loss(run: Run, loss: float, epoch: int, step: int) -> None:
    if not np.isfinite(loss):
        if run.teachers is not None:
            run.teachers.check()  # of their output, not of the learning rate
        raise StateError(f"epoch {epoch}, step {step}: the loss is {loss}. {LOWER_THE_RATE}")


def _end_epoch(run: Run, epoch: int, log: RunLog) -> None:
    """Evaluate, write the log and a checkpoint, as far as they are due after an epoch."""
    config, last = run.config, epoch + 1 == run.config.epochs
    _check_weights(run, epoch)
    run.evaluated = _evaluate(run) if last or (epoch + 1) % config.val_epochs == 0 else {}
    log.epoch(run.record | run.evaluated)
    logger.info("%s: epoch %d: loss %.4f, %.1f s", config.out, epoch, run.record["loss"], run.record["seconds"])
    if last or (epoch + 1) % config.checkpoint_epochs == 0:
        save_state(run.folder / CHECKPOINT, _state(run, epoch + 1))
        run.kept_epochs = epoch + 1


def _check_weights(run: Run, epoch: int) -> None:
    """Raise StateError if a weight is not finite, which the loss of the last step does not show: no checkpoint must be made of it."""
    for model in (run.student, run.average):
        for name, value in model.state_dict().items() if model is not None else ():
            if not torch.isfinite(value).all():
                raise StateError(f"epoch {epoch}: after its last step, {name} is not finite any more. {LOWER_THE_RATE}")


def _evaluate(run: Run) -> dict[str, Any]:
    """Return what the log says about an evaluation: the fingerprint of the images, the result, and its time."""
    if run.evaluator is None:
        return {}
    started = time.perf_counter()
    found = dataclasses.asdict(run.evaluator.measure(run.trained, run.autocast))
    return {"val": run.val, "evaluation": found, "evaluation_seconds": time.perf_counter() - started}


def _finish(run: Run) -> TrainReport:
    """Write the weights and the result, and return the report."""
    if run.here.first:
        if run.evaluated.get("val") != run.val:  # an earlier run has trained all epochs, and evaluated other images
            run.evaluated = _evaluate(run)
            save_state(run.folder / CHECKPOINT, _state(run, run.config.epochs))
        save_weights(run.folder / WEIGHTS, run.trained, _about(run))
        found = {**run.setup.trained_on, "val": run.val, **dataclasses.asdict(_report(run))}
        write_json(run.folder / RESULT, {"config": run.config.to_mapping(), **found})
        logger.info("%s: finished, loss %.4f", run.config.out, run.record["loss"])
    return _report(run)


def _report(run: Run) -> TrainReport:
    return TrainReport(
        out=run.config.out,
        epochs=run.config.epochs,
        steps=run.config.epochs * len(run.loader),
        loss=run.record["loss"],
        seconds=run.seconds,
        data_seconds=run.data_seconds,
        evaluation=run.evaluated.get("evaluation"),
    )


def _about(run: Run) -> dict[str, Any]:
    """Return what a user of the student's weights must know."""
    config, setup, crops = run.config, run.setup, run.setup.crops
    return {
        "student": config.student,
        "num_classes": setup.num_classes,
        "output": "logits" if setup.teacher_temperature is None else "features",
        "size": config.size,
        "crop": config.val_crop,
        "mean": list(crops.mean),
        "std": list(crops.std),
        "interpolation": crops.interpolation,
        "exif_orientation": crops.exif_orientation,
        "folders": setup.folders,
    }


def _state(run: Run, epoch: int) -> dict[str, Any]:
    """Return the contents of a checkpoint: plain values and tensors."""
    return {
        "model": run.student.state_dict(),
        "average": None if run.average is None else run.average.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "epoch": epoch,
        "seconds": run.seconds,
        "data_seconds": run.data_seconds,
        "record": run.record,
        "evaluated": run.evaluated,
        "config": run.config.to_mapping(),
        "world_size": run.here.world_size,
        **run.setup.trained_on,
        "about": _about(run),
    }


def _continue_from(run: Run, state: dict[str, Any]) -> None:
    """Take over the state of a checkpoint."""
    run.student.load_state_dict(state["model"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    run.first_epoch = run.kept_epochs = state["epoch"]
    run.record, run.evaluated = state["record"], state["evaluated"]
    run.seconds, run.data_seconds = state["seconds"], state["data_seconds"]
