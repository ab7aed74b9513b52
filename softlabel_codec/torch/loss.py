"""Soft cross-entropy on sparse labels, without a dense target: a function and a module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from softlabel_codec.checks.arguments import check_temperature
from softlabel_codec.errors import ArgumentError, MismatchError, StateError
from softlabel_codec.torch.collated import check_collated
from softlabel_codec.torch.targets import NOT_PROBABILITIES, FeatureTargets, SparseTargets, Targets


def soft_cross_entropy(logits: Tensor, labels: Targets, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy between stored soft labels and a student's predictions.

    For a crop with target t over C classes and logits z it is -sum over c of t_c * log softmax(z)_c. For sparse labels the
    sum over the other classes has a closed form, so no (B, C) target is built: with the same target u for most classes,
    targets v_k for the few others (the kept ones, and those that a tail lists), and q = log softmax(z),

        loss = -sum over the few of (v_k - u) q_k  -  u * sum over all c of q_c

    Value and gradient equal those of the dense formula, which is used itself where a tail has all classes. Logits of reduced precision are
    converted to float32.

    Labels read with the policy `bucket` have K + 1 classes: the kept ones, with values p_k, and all others as one, with the remainder r:

        loss = -sum over the kept of p_k q_k  -  r * (logsumexp of z over the others - logsumexp of z over all)

    Parameters
    ----------
    logits : float (B, C)
        The student's outputs, one row for each crop. Inside `torch.func.vmap`, where the labels are those of one crop, (C,).
    labels : SparseTargets or DenseTargets
        B labels, on the same device.
    reduction : str
        `mean` or `sum` over the crops, or `none`.

    Returns
    -------
    float32 (float64 for float64 logits), scalar or (B,)

    Raises
    ------
    MismatchError
        If the number of classes or crops differs.
    ArgumentError
        If `labels` belong to a sample that was not collated, or `reduction` is unknown.
    StateError
        If `labels` are features, which become targets at a temperature only: `labels.at(T)`.

    Examples
    --------
    >>> labels = SparseTargets(torch.tensor([[2, 0]], dtype=torch.int32), torch.tensor([[0.5, 0.3]]), torch.tensor([0.2]), num_classes=4)
    >>> round(soft_cross_entropy(torch.tensor([[1.0, 0.0, 2.0, 0.5]]), labels).item(), 4)
    1.196
    """
    _check_targets(labels)
    if logits.ndim == labels.ndim == 1:
        losses = _losses_of(logits[None], labels.batch_of_one())[0]
    else:
        if logits.ndim != 2 or logits.shape != labels.shape:
            expected = f"({len(labels)}, {labels.num_classes}): one row per label, one column per class"
            raise MismatchError(f"logits: expected shape {expected}; got {tuple(logits.shape)}")
        losses = _losses_of(logits, labels)
    return _reduced(losses, reduction)


class SoftCrossEntropy(nn.Module):
    """Cross-entropy with stored soft labels at a temperature, mixed with that of the true classes (Hinton et al., 2015).

    For a crop with label t, true class y and logits z, with T = `temperature` and w = `truth_weight`, it is

        (1 - w) * T^2 * soft_cross_entropy(z / T, t)  +  w * cross_entropy(z, y)

    As in that paper, only the first part has the temperature, and the factor T^2 keeps the size of its gradient at any temperature, so that
    w need not change with it. Labels must be at the same temperature: `SoftLabelDataset(temperature=T)` reads them at T. (Others divide by
    T only, or leave out T^2: use `soft_cross_entropy` for that.)

    Parameters
    ----------
    temperature : float
        T, more than 0. It divides the student's logits.
    kl : bool
        Subtract the entropy of each label: the Kullback-Leibler divergence, which is 0 for a student that says what the labels say. The
        gradient is the same.
    reduction : str
        `mean` or `sum` over the crops, or `none`.
    truth_weight : float
        w, from 0 to 1. More than 0 needs the true classes, a `SoftLabelDataset` with `target_of=`.

    Raises
    ------
    ArgumentError
        If an argument cannot be.

    Examples
    --------
    >>> labels = SparseTargets(torch.tensor([[2, 0]], dtype=torch.int32), torch.tensor([[0.5, 0.3]]), torch.tensor([0.2]), num_classes=4)
    >>> loss = SoftCrossEntropy(temperature=2.0, truth_weight=0.25)
    >>> round(loss(torch.tensor([[1.0, 0.0, 2.0, 0.5]]), labels, torch.tensor([2])).item(), 4)
    3.7958
    """

    def __init__(self, temperature: float = 1.0, *, kl: bool = False, reduction: str = "mean", truth_weight: float = 0.0) -> None:
        super().__init__()
        _check_reduction(reduction)
        if not 0 <= truth_weight <= 1:
            raise ArgumentError(f"truth_weight: expected a number from 0 to 1, got {truth_weight!r}")
        self.temperature, self.truth_weight = check_temperature(temperature), float(truth_weight)
        self.kl, self.reduction = bool(kl), reduction

    def forward(self, logits: Tensor, labels: Targets, classes: Tensor | None = None) -> Tensor:
        """Return the loss.

        Parameters
        ----------
        logits : float (B, C)
            The student's outputs, not divided by the temperature. Inside `torch.func.vmap` (C,), with the label and class of one crop.
        labels : SparseTargets or DenseTargets
            B labels, on the same device.
        classes : int64 (B,), optional
            True class of each crop's image. Needed, and used, only if `truth_weight` is more than 0.

        Returns
        -------
        float32 (float64 for float64 logits), scalar or (B,)

        Raises
        ------
        MismatchError
            If the number of classes or crops differs.
        ArgumentError
            If classes are needed and not given, or `labels` belong to a sample that was not collated.
        StateError
            If `labels` are features, which become targets at a temperature only: `labels.at(T)`.
        """
        _check_targets(labels)
        if logits.ndim == labels.ndim == 1:
            alone = None if classes is None else classes[None]
            return _reduced(self._losses(logits[None], labels.batch_of_one(), alone)[0], self.reduction)
        return _reduced(self._losses(logits, labels, classes), self.reduction)

    def _losses(self, logits: Tensor, labels: Targets, classes: Tensor | None) -> Tensor:
        softened = logits if self.temperature == 1 else _wide(logits) / self.temperature
        losses = soft_cross_entropy(softened, labels, "none")
        if self.kl:
            losses = losses - labels.entropy()
        losses = losses * self.temperature**2
        if not self.truth_weight:
            return losses
        return (1 - self.truth_weight) * losses + self.truth_weight * _true_losses(logits, classes, self.truth_weight)

    def extra_repr(self) -> str:
        """Return the arguments, for `repr`."""
        return f"temperature={self.temperature:g}, kl={self.kl}, reduction={self.reduction!r}, truth_weight={self.truth_weight:g}"


def _true_losses(logits: Tensor, classes: Tensor | None, weight: float) -> Tensor:
    if classes is None:
        advice = "Pass those that collate_crops returns for a SoftLabelDataset with target_of="
        raise ArgumentError(f"classes: expected the true classes, int64 (B,), because truth_weight is {weight:g}, got None. {advice}")
    if classes.shape != logits.shape[:-1]:
        raise MismatchError(f"classes: expected shape {tuple(logits.shape[:-1])}, one class per crop, got {tuple(classes.shape)}")
    return functional.cross_entropy(_wide(logits), classes, reduction="none")


def _check_targets(labels: Any) -> None:
    check_collated(labels)
    if isinstance(labels, FeatureTargets):
        raise StateError(f"labels: expected SparseTargets or DenseTargets, {NOT_PROBABILITIES}")


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"reduction: expected mean, sum or none, got {reduction!r}")


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    _check_reduction(reduction)
    if reduction == "mean":
        return losses.mean()
    return losses.sum() if reduction == "sum" else losses


def _losses_of(logits: Tensor, labels: Targets) -> Tensor:
    if isinstance(labels, SparseTargets) and labels.policy == "bucket":
        return _losses_with_bucket(_wide(logits), labels)
    if not isinstance(labels, SparseTargets) or labels.has_full_tail:
        return -(labels.dense() * torch.log_softmax(_wide(logits), dim=1)).sum(dim=1)
    parts = labels.above_background()
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():  # these differentiate the formula themselves
        return _losses(logits, *parts)[0]
    losses: Tensor = _SparseCrossEntropy.apply(logits, *parts)  # type: ignore[no-untyped-call]
    return losses


def _losses(logits: Tensor, classes: Tensor, extra: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses, and the logarithm of the sum of the exponentials of the logits, both (B,)."""
    wide = _wide(logits)
    log_total = torch.logsumexp(wide, dim=1)
    chosen = wide.gather(1, classes) - log_total[:, None]
    rest = wide.sum(dim=1) - logits.shape[1] * log_total
    return -(extra * chosen).sum(dim=1) - background * rest, log_total


def _losses_with_bucket(logits: Tensor, labels: SparseTargets) -> Tensor:
    """Return the losses, (B,), with the classes that are not kept as one class."""
    kept = labels.indices >= 0
    classes = labels.indices.clamp(min=0).long()
    is_kept = torch.zeros_like(logits).scatter_add(1, classes, kept.to(logits.dtype)) > 0
    has_bucket = (labels.remainder > 0) & (kept.sum(dim=1) < labels.num_classes)
    log_total = torch.logsumexp(logits, dim=1)
    log_kept = torch.where(kept, logits.gather(1, classes) - log_total[:, None], 0.0)
    # Where nothing is left for others, no class is masked: the logarithm of their sum, and its gradient, stay finite.
    log_others = torch.logsumexp(logits.masked_fill(is_kept & has_bucket[:, None], -math.inf), dim=1) - log_total
    return -(labels.values * log_kept).sum(dim=1) - torch.where(has_bucket, labels.remainder, 0.0) * log_others


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class _SparseCrossEntropy(torch.autograd.Function):
    """Loss and gradient with one (B, C) buffer: the gradient, which the caller needs anyway."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor, extra: Tensor, background: Tensor) -> Tensor:
        losses, log_total = _losses(logits, classes, extra, background)
        ctx.save_for_backward(logits, log_total, classes, extra, background)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, log_total, classes, extra, background = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the gradient will be differentiated
            losses, _ = _losses(logits, classes, extra, background)
            return torch.autograd.grad(losses, logits, grad, create_graph=True)[0], None, None, None
        total = extra.sum(dim=1) + logits.shape[1] * background
        slope = (logits.to(log_total.dtype) - log_total[:, None]).exp_()
        slope.mul_((total * grad)[:, None]).sub_((background * grad)[:, None])
        slope.scatter_add_(1, classes, -(extra * grad[:, None]).to(slope.dtype))
        return slope.to(logits.dtype), None, None, None
