"""The policy `bucket`: the classes that are not kept are one class more."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import write_labels
from PIL import Image
from test_torch_side import DEVICES, STRATEGIES, sparse_targets
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, vmap

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader, StateError
from softlabel_codec.torch import (
    DenseTargets,
    LabelledCrops,
    SoftCrossEntropy,
    SoftLabelDataset,
    SparseTargets,
    collate_crops,
    collate_dense,
    soft_cross_entropy,
)

SPARSE = [codec for codec in STRATEGIES if codec != "dense"]
NO_TARGETS = r"policy 'bucket' takes the classes that are not kept for one class more.*with_policy\('uniform'\)"


def bucket_of(codec, rows=40, seed=0):
    return sparse_targets(np.random.default_rng(seed), codec, rows).with_policy("bucket")


def by_hand(logits, targets):
    """Return the losses of K + 1 classes, computed one by one in double precision."""
    losses = []
    for row in range(len(targets)):
        kept = [(int(c), float(p)) for c, p in zip(targets.indices[row], targets.values[row], strict=True) if c >= 0]
        powers = [math.exp(float(z) - float(logits[row].max())) for z in logits[row].double()]
        total = math.fsum(powers)
        others = math.fsum(power for c, power in enumerate(powers) if c not in dict(kept))
        loss = -math.fsum(p * math.log(powers[c] / total) for c, p in kept)
        rest = float(targets.remainder[row])
        losses.append(loss - rest * math.log(others / total) if rest > 0 and others > 0 else loss)
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("codec", SPARSE)
def test_the_loss_is_that_of_one_class_more(codec, device):
    targets = bucket_of(codec)
    torch.manual_seed(0)
    logits = 3 * torch.randn(40, 30)
    wanted = by_hand(logits, targets)
    found = soft_cross_entropy(logits.to(device), targets.to(device), "none")
    torch.testing.assert_close(found.cpu().double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(soft_cross_entropy(logits, targets).double(), wanted.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("codec", SPARSE)
def test_the_gradient_is_that_of_the_loss(codec):
    targets = bucket_of(codec, rows=4)
    double = targets.with_tensors({name: part.double() if part.is_floating_point() else part for name, part in targets.tensors().items()})
    torch.manual_seed(0)
    logits = torch.randn(4, 30, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, double, "none"), logits)
    assert torch.autograd.gradgradcheck(lambda z: soft_cross_entropy(z, double, "none"), logits)


EXTREME = {
    "a remainder of 0": ([[2, 0]], [[0.75, 0.25]], [0.0]),
    "no value of a class": ([[2, 0]], [[1.0, 0.0]], [0.0]),
    "all classes are kept": ([[3, 1, 0, 2]], [[0.4, 0.3, 0.2, 0.1]], [0.0]),
    "all are kept, and something is left by rounding": ([[3, 1, 0, 2]], [[0.4, 0.3, 0.2, 0.1]], [1e-7]),
    "padding": ([[2, -1]], [[0.75, 0.0]], [0.25]),
    "nearly everything is left": ([[2, -1]], [[1e-6, 0.0]], [1 - 1e-6]),
}


@pytest.mark.parametrize("case", EXTREME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_loss_and_gradient_are_finite(case, dtype, scale):
    indices, values, remainder = EXTREME[case]
    targets = SparseTargets(torch.tensor(indices, dtype=torch.int32), torch.tensor(values), torch.tensor(remainder), 4, "bucket")
    for signs in ([1, -1, -0.5, 0.25], [-1, -1, 1, -1], [0, 0, 0, 0]):
        logits = (scale * torch.tensor([signs])).to(dtype).requires_grad_()
        loss = soft_cross_entropy(logits, targets)
        loss.backward()
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()
        assert logits.grad.dtype == dtype


def test_what_the_student_gives_to_others_is_not_lost_in_rounding():
    targets = SparseTargets(torch.tensor([[0]], dtype=torch.int32), torch.tensor([[0.5]]), torch.tensor([0.5]), 3, "bucket")
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)  # 1 - softmax is 0 in float32
    loss = soft_cross_entropy(logits, targets)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (60 - math.log(2)), rel=1e-6)
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.25, -0.25]]))


def test_under_autocast():
    targets = bucket_of("marginal_smoothing:k=5")
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 30)
    crops = torch.randn(40, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(crops)
        loss = soft_cross_entropy(logits, targets)
    loss.backward()
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(loss.double(), by_hand(logits.detach().float(), targets).mean(), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(layer.weight.grad).all()


def test_kept_classes_alone_give_the_loss_of_the_other_policies():
    targets = sparse_targets(np.random.default_rng(0), "marginal_smoothing:k=30")
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft_cross_entropy(logits, targets.with_policy("bucket")), soft_cross_entropy(logits, targets))


@pytest.mark.parametrize("codec", ["marginal_smoothing:t=0.05,tail=9", "marginal_smoothing:t=0.05,tail=all,mean=log"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_module(temperature, codec):
    targets = bucket_of(codec)
    logits = 3 * torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    loss = SoftCrossEntropy(temperature, reduction="none")(logits, targets)
    torch.testing.assert_close(loss.double(), temperature**2 * by_hand(logits / temperature, targets), rtol=1e-5, atol=1e-5)
    divergence = SoftCrossEntropy(temperature, kl=True, reduction="none")(logits, targets)
    assert divergence.min() > -1e-5
    p = [torch.cat([row.values[0], row.remainder]).double() for row in targets]
    entropy = torch.stack([-(one * one.clamp(min=1e-300).log()).sum() for one in p])
    torch.testing.assert_close((loss - divergence).double() / temperature**2, entropy, rtol=1e-4, atol=1e-5)
    of_truth = SoftCrossEntropy(temperature, truth_weight=1.0)(logits, targets, targets.top1)
    torch.testing.assert_close(of_truth, torch.nn.functional.cross_entropy(logits, targets.top1))


def test_mixed_losses_are_those_of_mixed_labels():
    targets = bucket_of("marginal_smoothing:k=5")
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    other = torch.arange(40).roll(1)
    mixed = 0.3 * soft_cross_entropy(logits, targets, "none") + 0.7 * soft_cross_entropy(logits, targets[other], "none")
    torch.testing.assert_close(mixed.double(), 0.3 * by_hand(logits, targets) + 0.7 * by_hand(logits, targets[other]), rtol=1e-5, atol=1e-6)


def test_under_vmap_and_compile():
    targets = bucket_of("marginal_smoothing:t=0.05")
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    wanted = by_hand(logits, targets)
    torch.testing.assert_close(vmap(partial(soft_cross_entropy, reduction="sum"))(logits, targets).double(), wanted, rtol=1e-5, atol=1e-6)
    slopes = vmap(grad(partial(soft_cross_entropy, reduction="sum")))(logits, targets)
    free = logits.clone().requires_grad_()
    soft_cross_entropy(free, targets, "sum").backward()
    torch.testing.assert_close(slopes, free.grad)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(soft_cross_entropy, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(logits, targets, "none").double(), wanted, rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.parametrize("codec", SPARSE)
def test_there_are_no_targets_of_all_classes(codec):
    targets = bucket_of(codec)
    assert targets.shape == (40, 30)
    assert torch.equal(targets.argmax(-1), targets.with_policy("renorm").argmax(-1))
    for use in (targets.dense, targets.above_background):
        with pytest.raises(StateError, match=NO_TARGETS):
            use()
    assert torch.equal(torch.cat([targets[:5], targets[5:]]).values, targets.values)
    for other in (targets.with_policy("uniform"), targets.with_policy("renorm")):
        with pytest.raises(MismatchError, match=r"policy: expected 'bucket' for all, .* got bucket, "):
            torch.cat([targets, other])
    with pytest.raises(StateError, match=NO_TARGETS):
        torch.cat([targets, DenseTargets(torch.full((2, 30), 1 / 30))])


def test_reading(tmp_path):
    for codec in ("marginal_smoothing:k=5", "marginal_smoothing:t=0.05,tail=8", "marginal_smoothing:t=0.1,tail=all,mean=log", "hard"):
        write_labels(tmp_path / "a.slc", codec, overwrite=True)
        with SoftLabelReader(tmp_path / "a.slc", policy="bucket") as reader, SoftLabelReader(tmp_path / "a.slc") as stored:
            for labels, own in ((reader[2].labels, stored[2].labels), (reader.read(2, [1, 0]).labels, stored.read(2, [1, 0]).labels)):
                assert labels.policy == "bucket"
                np.testing.assert_array_equal(labels.remainder, own.remainder)
                for use in (labels.dense, partial(labels.topk, 2)):
                    with pytest.raises(StateError, match=NO_TARGETS):
                        use()
                np.testing.assert_array_equal(labels.with_policy("uniform").dense(), own.with_policy("uniform").dense())
    write_labels(tmp_path / "b.slc", "dense")
    with pytest.raises(ArgumentError, match="policy: labels of 'dense' have no remainder"):
        SoftLabelReader(tmp_path / "b.slc", policy="bucket")


def test_from_a_dataset(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    write_labels(tmp_path / "a.slc", "marginal_smoothing:k=5", counts=[4], keys=["a.png"])
    dataset = SoftLabelDataset(tmp_path, tmp_path / "a.slc", 2, 8, policy="bucket")
    images, labels = collate_crops([dataset[0]])
    assert (len(images), labels.policy) == (2, "bucket")
    assert torch.isfinite(soft_cross_entropy(torch.zeros(2, 20), labels))
    with pytest.raises(StateError, match=NO_TARGETS):
        collate_dense([dataset[0]])


@pytest.mark.parametrize("tail", ["tail=9", "tail=all,mean=log"])
def test_temperature_of_datasets_and_streams(tmp_path, tail):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    write_labels(tmp_path / "a.slc", f"marginal_smoothing:k=5,{tail}", counts=[4], keys=["a.png"], metadata={"temperature": 1.0})
    with SoftLabelReader(tmp_path / "a.slc", temperature=4) as reader:
        wanted = reader[0].labels.dense()
    dataset = SoftLabelDataset(tmp_path, tmp_path / "a.slc", 4, 8, temperature=4)
    stream = LabelledCrops(tmp_path / "a.slc", 4, 8, temperature=4)
    for labels in (dataset[0].labels, dataset.labels_of([0])[0].labels, stream({"key": "a.png", "image": tmp_path / "a.png"}).labels):
        np.testing.assert_allclose(np.sort(labels.dense(), axis=0), np.sort(wanted, axis=0), rtol=1e-6)
    assert dataset.reader.temperature == stream.reader.temperature == 4
    write_labels(tmp_path / "b.slc", "marginal_smoothing:k=5", counts=[4], keys=["a.png"], metadata={"temperature": 1.0})
    for refused in (partial(SoftLabelDataset, tmp_path), LabelledCrops):
        with pytest.raises(ArgumentError, match=r"b\.slc: temperature: expected 1.*spread the remainder evenly"):
            refused(tmp_path / "b.slc", temperature=4)
