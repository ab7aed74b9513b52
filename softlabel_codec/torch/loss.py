"""Soft cross-entropy on sparse labels, without a dense target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.torch.collated import check_collated
from softlabel_codec.torch.targets import SparseTargets, Targets


def soft_cross_entropy(logits: Tensor, labels: Targets, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy between stored soft labels and a student's predictions.

    For a crop with target t over C classes and logits z it is -sum over c of t_c * log softmax(z)_c. For sparse labels the
    sum over the other classes has a closed form, so no (B, C) target is built: with the same target u for most classes,
    targets v_k for the few others (the kept ones, and those that a tail lists), and q = log softmax(z),

        loss = -sum over the few of (v_k - u) q_k  -  u * sum over all c of q_c

    Value and gradient equal those of the dense formula. Logits of reduced precision are converted to float32.

    Parameters
    ----------
    logits : float (B, C)
        The student's outputs, one row for each crop.
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

    Examples
    --------
    >>> labels = SparseTargets(torch.tensor([[2, 0]], dtype=torch.int32), torch.tensor([[0.5, 0.3]]), torch.tensor([0.2]), num_classes=4)
    >>> round(soft_cross_entropy(torch.tensor([[1.0, 0.0, 2.0, 0.5]]), labels).item(), 4)
    1.196
    """
    check_collated(labels)
    if logits.ndim != 2 or tuple(logits.shape) != (len(labels), labels.num_classes):
        expected = f"({len(labels)}, {labels.num_classes}): one row per label, one column per class"
        raise MismatchError(f"logits: expected shape {expected}; got {tuple(logits.shape)}")
    if isinstance(labels, SparseTargets):
        losses = _sparse_losses(logits, labels)
    else:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        losses = -(labels.probs * torch.log_softmax(wide, dim=1)).sum(dim=1)
    if reduction == "mean":
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    if reduction != "none":
        raise ArgumentError(f"reduction: expected mean, sum or none, got {reduction!r}")
    return losses


def _sparse_losses(logits: Tensor, labels: SparseTargets) -> Tensor:
    losses: Tensor = _SparseCrossEntropy.apply(logits, *labels.above_background())  # type: ignore[no-untyped-call]
    return losses


class _SparseCrossEntropy(torch.autograd.Function):
    """Loss and gradient with one (B, C) buffer: the gradient, which the caller needs anyway."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, indices: Tensor, weights: Tensor, background: Tensor) -> Tensor:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        log_total = torch.logsumexp(wide, dim=1)
        chosen = wide.gather(1, indices) - log_total[:, None]
        rest = wide.sum(dim=1) - logits.shape[1] * log_total
        ctx.save_for_backward(logits, log_total, indices, weights, background)
        return -(weights * chosen).sum(dim=1) - background * rest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, log_total, indices, weights, background = ctx.saved_tensors
        total = weights.sum(dim=1) + logits.shape[1] * background
        slope = (logits.to(log_total.dtype) - log_total[:, None]).exp_()
        slope.mul_((total * grad)[:, None]).sub_((background * grad)[:, None])
        slope.scatter_add_(1, indices, -(weights * grad[:, None]).to(slope.dtype))
        return slope.to(logits.dtype), None, None, None
