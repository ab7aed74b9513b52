"""The training loop, from top to bottom: set up, then epoch after epoch of steps, each followed by evaluation and checkpoint."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.whole_files import write_json
from softlabel_codec.errors import StateError
from softlabel_codec.evaluate.evaluator import LOWER_THE_RATE, Evaluator
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.students.weights import save_weights
from softlabel_codec.teacher.interrupted import Interrupted
from softlabel_codec.teacher.online import OnlineTeacher
from softlabel_codec.torch import DenseTargets, soft_cross_entropy
from softlabel_codec.torch.device import ImageMemory
from softlabel_codec.torch.targets import Targets
from softlabel_codec.torch.workers import workers_watched
from softlabel_codec.trainer.augment import Mix, jitter_colors, mix_crops
from softlabel_codec.trainer.batches import Batch, DeviceLoader, HostLoader, Loader
from softlabel_codec.trainer.checkpoint import load_checkpoint, refuse_begun, save_checkpoint
from softlabel_codec.trainer.draws import check_draws, epoch_of, num_steps
from softlabel_codec.trainer.log import RunLog
from softlabel_codec.trainer.processes import Processes, processes
from softlabel_codec.trainer.setup import Setup, make_evaluator, make_online_teacher, make_optimizer, make_student, set_up

Progress = Callable[[int, int], None]
RESULT, WEIGHTS = "result.json", "weights.pt"
STEPS_BETWEEN_CHECKS = 50
EVALUATED = ("val", "evaluation", "evaluation_seconds")
"""What the record of an epoch holds if images were looked at: their fingerprint, what was measured, and how long it took."""
logger = logging.getLogger(__name__)
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TrainReport:
    """What a run did.

    Attributes
    ----------
    out : str
        Its folder: `checkpoint.pt`, `log.jsonl`, `result.json`, and `weights.pt`, the student's `state_dict` (averaged, with `ema`),
        with `weights.json`, which says how images are prepared for it.
    epochs, steps : int
        How much was trained, earlier parts of a run that was continued included.
    loss : float
        Mean loss of the last epoch.
    seconds, data_seconds : float
        Time of the epochs, and how much of it this process waited for data. (A CUDA device works on what it was given in the meantime.)
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


@dataclass
class Run:
    """A run on its way."""

    config: TrainConfig
    setup: Setup
    here: Processes
    student: nn.Module  # the bare network, whose weights are saved
    parallel: nn.Module  # the same for the forward pass: parallel, perhaps compiled
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: Loader
    teacher: OnlineTeacher | None
    evaluator: Evaluator | None  # in the first process
    val: str | None  # fingerprint of the images that it looks at
    autocast: torch.dtype | None
    first_epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)  # of the last epoch
    kept_epochs: int = 0  # in the last checkpoint


def train(config: TrainConfig, progress: Progress | None = None, memory: ImageMemory | None = None) -> TrainReport:
    """Train a student as a configuration says, and return what came of it. With `torchrun`, call it in every process.

    Parameters
    ----------
    config : TrainConfig
        What to do.
    progress : callable, optional
        Called with the number of steps done so far and in all.
    memory : ImageMemory, optional
        Where images of earlier runs lie, for `in_memory`.

    Raises
    ------
    ArgumentError, MismatchError, FormatError
        If labels, images, checkpoint and options do not fit together; nothing has been trained then.
    StateError
        If the folder holds a run that is not to be continued, or a process that cuts images was killed, or loss or weights are not
        numbers any more. The last checkpoint stays.
    """
    with processes(config.device) as here, workers_watched():
        return _train(_begin(config, here, memory or ImageMemory()), progress or (lambda done, total: None))


def _train(run: Run, progress: Progress) -> TrainReport:
    """Take the epochs that are left."""
    if run.here.first:
        _say_what_begins(run)
    with _saying_what_is_kept(run), _log(run) as log:
        for epoch in range(run.first_epoch, run.config.epochs):
            run.record = _train_epoch(run, epoch, progress)
            with run.here.together():
                if log is not None:  # the first process
                    _end_epoch(run, epoch, log)
    with run.here.together():
        return _finish(run)


def _say_what_begins(run: Run) -> None:
    epochs, images = counted(run.config.epochs, "epoch"), counted(len(run.setup.crops.keys), "image")
    earlier = f", {run.first_epoch} of them by an earlier run" if run.first_epoch else ""
    logger.info("%s: training on %s, %s%s", run.config.out, images, epochs, earlier)


@contextmanager
def _saying_what_is_kept(run: Run) -> Iterator[None]:
    """Let an interruption of the block say what is in the last checkpoint."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not run.here.first:
            raise
        how = "run the same command again" if run.config.resume else "run it again with resume=True (--resume)"
        kept, are = counted(run.kept_epochs, "epoch"), "is" if run.kept_epochs == 1 else "are"
        text = f"{kept} {are} kept in {_folder(run.config)}; {how} to continue" if run.kept_epochs else "No epoch is kept yet"
        raise Interrupted(text) from error


def _begin(config: TrainConfig, here: Processes, memory: ImageMemory) -> Run:
    """Make everything that a run needs, and take up its checkpoint if it is to be continued."""
    with here.together():
        if here.first and not config.resume:
            refuse_begun(_folder(config))
        setup = set_up(config)
        check_draws(config, len(setup.crops.keys), here.world_size)
        student = make_student(config, setup, here.device)
        if config.channels_last:
            student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        teacher = make_online_teacher(config, setup, here.device)
        loader = DeviceLoader(config, setup, here, memory) if config.in_memory else HostLoader(config, setup, here)
        evaluator = make_evaluator(config, setup, here.device, memory) if here.first else None
        if here.first:
            _folder(config).mkdir(parents=True, exist_ok=True)
    parallel = here.parallel(student)
    run = Run(
        config=config,
        setup=setup,
        here=here,
        student=student,
        parallel=cast(nn.Module, torch.compile(parallel)) if config.compile else parallel,
        average=AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None,  # type: ignore[no-untyped-call]
        optimizer=make_optimizer(student, config),
        scaler=torch.amp.GradScaler(here.device.type, enabled=config.precision == "float16"),
        loader=loader,
        teacher=teacher,
        evaluator=evaluator,
        val=evaluator.images.sha256() if evaluator is not None else None,
        autocast=_AUTOCAST.get(_precision(config, here.device)),
    )
    if config.resume:
        state = here.from_first(lambda: load_checkpoint(_folder(config), config, setup.trained_on, here.world_size))
        if state is not None:
            _take_up(run, state)
    return run


def _train_epoch(run: Run, epoch: int, progress: Progress) -> dict[str, Any]:
    """Take all steps of an epoch, and return what is to be written down about it."""
    config, here = run.config, run.here
    crops_per_image, steps = epoch_of(config, epoch).crops_per_image, num_steps(config, len(run.setup.crops.keys), epoch)
    rng = np.random.default_rng([config.seed, epoch, here.rank])
    # of dropout and the like: a run may be continued at any epoch
    torch.manual_seed((config.seed * 1_000_003 + epoch * 1009 + here.rank) % 2**63)
    run.student.train()
    losses = torch.zeros((), dtype=torch.float64, device=here.device)
    started = asked = time.perf_counter()
    waited = 0.0
    for place, batch in enumerate(run.loader.batches(epoch)):
        waited += time.perf_counter() - asked
        rate = learning_rate(config, epoch + place / steps, epoch + (place + 1) / steps)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        losses += _step(run, batch, crops_per_image, rng)
        if place % STEPS_BETWEEN_CHECKS == 0 or place + 1 == steps:
            _check_loss(float(here.mean(losses)) / (place + 1), epoch, place)
        progress(epoch * steps + place + 1, config.epochs * steps)
        asked = time.perf_counter()
    seconds = time.perf_counter() - started
    run.steps, run.seconds, run.data_seconds = run.steps + steps, run.seconds + seconds, run.data_seconds + waited
    loss = float(here.mean(losses)) / steps
    return {"epoch": epoch, "steps": steps, "loss": loss, "learning_rate": rate, "seconds": seconds, "data_seconds": waited}


def learning_rate(config: TrainConfig, start: float, end: float) -> float:
    """Return the learning rate of a step from `start` to `end` in epochs: rising for the warm-up, then falling along a half cosine to 0."""
    if end < config.warmup_epochs:
        return config.learning_rate * end / config.warmup_epochs
    rest = max(1e-8, config.epochs - config.warmup_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, start - config.warmup_epochs) / rest)))


def _step(run: Run, batch: Batch, crops_per_image: int, rng: np.random.Generator) -> Tensor:
    """Learn from one batch, and return its loss."""
    config = run.config
    labels = batch.labels if run.teacher is None else _teach(run.teacher, batch.pixels, run.setup.temperature)
    pixels = jitter_colors(batch.pixels.float() / 255, config.color_jitter, rng)
    pixels, mix = mix_crops(pixels, crops_per_image, config.mixup, config.cutmix, rng)
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (run.setup.mean, run.setup.std))
    images = (pixels - mean) / std
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(run.here.device.type, run.autocast, enabled=run.autocast is not None):
        logits = run.parallel(images)
    loss = _mixed(lambda rows: _loss(run, logits, labels, batch.classes, rows), mix)
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average is not None:
        run.average.update_parameters(run.student)
    return loss.detach().double()


def _teach(teacher: OnlineTeacher, pixels: Tensor, temperature: float) -> Targets:
    """Return what the teacher says of crops right now."""
    return DenseTargets(torch.softmax(teacher(pixels) / temperature, dim=1).clone())


def _loss(run: Run, logits: Tensor, labels: Targets, classes: Tensor | None, rows: Tensor | None) -> Tensor:
    """Return the loss of predictions against the labels of their own crops, or of those in `rows`.

    The soft part is that of Hinton et al. (2015): T^2 times the cross-entropy of both at temperature T.
    """
    weight, temperature = run.config.truth_weight, run.setup.temperature
    logits = logits.float()
    loss = logits.new_zeros(())
    if weight < 1:
        loss = (1 - weight) * temperature**2 * soft_cross_entropy(logits / temperature, labels if rows is None else labels[rows])
    if weight and classes is not None:
        loss = loss + weight * cross_entropy(logits, classes if rows is None else classes[rows])
    return loss


def _mixed(loss: Callable[[Tensor | None], Tensor], mix: Mix | None) -> Tensor:
    if mix is None:
        return loss(None)
    return mix.share * loss(None) + (1 - mix.share) * loss(mix.other)


def _check_loss(loss: float, epoch: int, step: int) -> None:
    if not np.isfinite(loss):
        raise StateError(f"epoch {epoch}, step {step}: the loss is {loss}. {LOWER_THE_RATE}")


def _check_weights(run: Run, epoch: int) -> None:
    """Refuse weights that are no numbers, which the loss of the last step does not tell: a checkpoint must be worth going on from."""
    for model in (run.student, run.average):
        for name, value in model.state_dict().items() if model is not None else ():
            if not torch.isfinite(value).all():
                raise StateError(f"epoch {epoch}: after its last step, {name} is not finite any more. {LOWER_THE_RATE}")


def _end_epoch(run: Run, epoch: int, log: RunLog) -> None:
    """Evaluate, write down and keep what an epoch came to."""
    config, last = run.config, epoch + 1 == run.config.epochs
    _check_weights(run, epoch)
    if run.evaluator is not None and (last or (epoch + 1) % config.val_epochs == 0):
        run.record |= _evaluate(run, run.evaluator)
    log.epoch(run.record)
    logger.info("%s: epoch %d: loss %.4f, %.1f s", config.out, epoch, run.record["loss"], run.record["seconds"])
    if last or (epoch + 1) % config.checkpoint_epochs == 0:
        save_checkpoint(_folder(config), _state(run, epoch + 1))
        run.kept_epochs = epoch + 1


def _finish(run: Run) -> TrainReport:
    """Return the report, after the first process has written it beside the weights."""
    if run.here.first:
        if run.record.get("val") != run.val:  # of a run that was finished before, and looked at other images
            run.record = {name: value for name, value in run.record.items() if name not in EVALUATED}
            run.record |= _evaluate(run, run.evaluator) if run.evaluator is not None else {}
            save_checkpoint(_folder(run.config), _state(run, run.config.epochs))
        save_weights(_folder(run.config) / WEIGHTS, run.student if run.average is None else run.average.module, _about(run))
        found = {**run.setup.trained_on, "val": run.val, **dataclasses.asdict(_report(run))}
        write_json(_folder(run.config) / RESULT, {"config": run.config.to_mapping(), **found})
        logger.info("%s: finished, loss %.4f", run.config.out, run.record["loss"])
    return _report(run)


def _evaluate(run: Run, evaluator: Evaluator) -> dict[str, Any]:
    started = time.perf_counter()
    model = run.student if run.average is None else run.average
    found = dataclasses.asdict(evaluator.measure(model, run.autocast))
    return dict(zip(EVALUATED, (run.val, found, time.perf_counter() - started), strict=True))


def _state(run: Run, epoch: int) -> dict[str, Any]:
    """Return what a checkpoint holds: plain values and tensors."""
    return {
        "model": run.student.state_dict(),
        "average": run.average.module.state_dict() if run.average is not None else None,
        "num_averaged": int(run.average.n_averaged) if run.average is not None else 0,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "epoch": epoch,
        "steps": run.steps,
        "seconds": run.seconds,
        "data_seconds": run.data_seconds,
        "config": run.config.to_mapping(),
        "world_size": run.here.world_size,
        **run.setup.trained_on,
        "num_classes": run.setup.num_classes,
        "preprocessing": run.setup.preprocessing,
        "folders": run.setup.folders,
        "record": run.record,
    }


def _about(run: Run) -> dict[str, Any]:
    """Return what somebody must know who uses the student's weights."""
    config, setup = run.config, run.setup
    known = {"student": config.student, "num_classes": setup.num_classes, "size": config.size, "crop": config.val_crop}
    return {**known, **setup.preprocessing, "folders": setup.folders}


def _take_up(run: Run, state: dict[str, Any]) -> None:
    """Go on where a checkpoint stopped."""
    run.student.load_state_dict(state["model"])
    if run.average is not None:
        run.average.module.load_state_dict(state["average"])
        run.average.n_averaged.fill_(state["num_averaged"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    run.first_epoch = run.kept_epochs = state["epoch"]
    run.record = state["record"]
    run.steps, run.seconds, run.data_seconds = (state[name] for name in ("steps", "seconds", "data_seconds"))


def _report(run: Run) -> TrainReport:
    return TrainReport(
        out=run.config.out,
        epochs=run.config.epochs,
        steps=run.steps,
        loss=run.record["loss"],
        seconds=run.seconds,
        data_seconds=run.data_seconds,
        evaluation=run.record.get("evaluation"),
    )


def _log(run: Run) -> AbstractContextManager[RunLog | None]:
    """Return the log, which only the first process writes."""
    if not run.here.first:
        return nullcontext()
    return RunLog(_folder(run.config), run.config, run.setup.label_facts, run.first_epoch)


def _folder(config: TrainConfig) -> Path:
    return Path(config.out)


def _precision(config: TrainConfig, device: torch.device) -> str:
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if device.type == "cuda" else "float32"
