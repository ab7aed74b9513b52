"""Targets that behave like tensors, the loss as a module, dense batches, and what samples carry besides pixels and labels."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from conftest import write_labels
from test_torch_side import DEVICES, STRATEGIES, sparse_targets
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, hessian, jvp, vmap
from torch.nn import functional
from torch.utils import _pytree
from torch.utils.data import DataLoader

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.torch import (
    DenseTargets,
    SoftCrossEntropy,
    SoftLabelDataset,
    SparseTargets,
    cat_targets,
    collate_crops,
    collate_dense,
    soft_cross_entropy,
)

TAILS = "marginal_smoothing:t=0.05,tail=9"
ALL_CLASSES = "marginal_smoothing:t=0.05,tail=all,mean=log"


def targets_of(codec, rows=8, seed=0):
    return sparse_targets(np.random.default_rng(seed), codec, rows)


def sparse(indices, values, remainder, num_classes, policy="uniform", *tail):
    whole = torch.tensor(indices, dtype=torch.int32), torch.tensor(values), torch.tensor(remainder)
    return SparseTargets(*whole, num_classes, policy, *(torch.tensor(part) for part in tail))


def same(mine, theirs):
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def dense_losses(logits, probs):
    return -(probs.to(logits.dtype) * torch.log_softmax(logits, dim=-1)).sum(dim=-1)


# Like a tensor


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("codec", STRATEGIES)
def test_targets_have_what_tensors_have(codec, device):
    targets = targets_of(codec).to(device)
    dense = targets.dense()
    assert (targets.shape, targets.size(), targets.ndim, len(targets)) == (dense.shape, dense.size(), 2, 8)
    assert (targets.size(0), targets.size(1), targets.size(-1), targets.num_classes) == (8, 30, 30, 30)
    with pytest.raises(IndexError):
        targets.size(2)
    assert targets.device == dense.device
    assert torch.equal(targets.cpu().dense(), targets.detach().cpu().dense())
    assert not targets.is_pinned()
    if device == "cuda":
        pinned = targets.cpu().pin_memory()
        assert pinned.is_pinned()
        assert pinned.cuda(non_blocking=True).device == targets.cpu().cuda().device == dense.device


@pytest.mark.parametrize("codec", [TAILS, "dense"])
def test_a_copy_is_made_only_if_asked(codec):
    targets = targets_of(codec)
    for copy in (False, True):
        moved = targets.to("cpu", copy=copy)
        pairs = zip(targets.tensors().values(), moved.tensors().values(), strict=True)
        assert {mine.data_ptr() == theirs.data_ptr() for mine, theirs in pairs} == {not copy}
        assert torch.equal(moved.dense(), targets.dense())


@pytest.mark.parametrize("codec", STRATEGIES)
def test_rows(codec):
    targets = targets_of(codec)
    dense = targets.dense()
    mask = torch.tensor([True, False] * 4)
    for rows in (slice(2, 7, 2), slice(None), slice(3, 3), [5, 0, -1], [], torch.tensor([1, 1, -8]), mask, mask.numpy(), mask.tolist()):
        same(targets[rows].dense(), dense[rows])
        assert len(targets[rows]) == len(dense[rows])
    for rows in (np.array([2, 0, 1], np.uint8), np.array([0, 1] * 4, np.uint8), np.array([1, 0], np.uint16), np.arange(8)[::-1]):
        same(targets[rows].dense(), dense[torch.from_numpy(rows.astype(np.int64))])
    for row in (3, -1, np.int64(3), torch.tensor(3)):
        same(targets[row].dense(), dense[row][None])
    same(torch.cat([row.dense() for row in targets]), dense)
    for row in (8, -9):
        with pytest.raises(IndexError):
            targets[row]
    with pytest.raises(IndexError):
        targets[mask[:3]]
    for rows in ((slice(None), 0), None, ..., True, torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ArgumentError, match="rows: expected a number, a slice, a list, an index tensor"):
            targets[rows]


@pytest.mark.parametrize("codec", STRATEGIES)
@pytest.mark.parametrize("policy", ["uniform", "renorm", "tail"])
def test_the_largest_target_and_the_entropy(codec, policy):
    targets = targets_of(codec, rows=100)
    if isinstance(targets, SparseTargets) and (policy != "tail" or targets.tail_of is not None):
        targets = targets.with_policy(policy)
    dense = targets.dense()
    for dim in (-1, 1):
        assert torch.equal(targets.argmax(dim), dense.argmax(dim))
    assert torch.equal(targets.argmax(keepdim=True), dense.argmax(1, keepdim=True))
    same(targets.entropy(), torch.special.entr(dense).sum(dim=1))
    with pytest.raises(ArgumentError, match="dim: expected that of the classes, -1 or 1, got 0"):
        targets.argmax(0)


@pytest.mark.parametrize("codec", STRATEGIES)
def test_the_most_probable_class_that_was_stored(codec):
    targets = targets_of(codec)
    assert targets.top1.dtype == torch.int64
    stored = targets.indices[:, 0].long() if isinstance(targets, SparseTargets) else targets.probs.argmax(1)
    assert torch.equal(targets.top1, stored)


@pytest.mark.parametrize(
    ("targets", "largest"),
    [
        (sparse([[5, 2]], [[0.25, 0.25]], [0.5], 8), 2),
        (sparse([[3, 2]], [[0.25, 0.25]], [0.5], 4), 0),  # all four have the same
        (sparse([[0, 1]], [[0.25, 0.25]], [0.5], 4), 0),
        (sparse([[0]], [[0.1]], [0.9], 3), 1),  # each of the others has more
        (sparse([[2, 0, 1]], [[0.25, 0.25, 0.1]], [0.4], 4), 3),
        (sparse([[2, 1, 0]], [[0.3, 0.3, 0.4]], [0.0], 3), 0),  # there are no others
        (sparse([[1, -1]], [[0.5, 0.0]], [0.5], 3), 1),
        (sparse([[4, 1]], [[0.25, 0.25]], [0.5], 5, "renorm"), 1),
        (sparse([[4]], [[0.25]], [0.75], 5, "tail", [[1, 3]], [[1.0, 1.0]], [0.5], [0]), 1),  # 1/8 1/4 1/8 1/4 1/4
        (sparse([[1]], [[0.1]], [0.9], 5, "tail", [[1, 3]], [[9.0, 1.0]], [0.5], [0]), 3),
        (sparse([[3]], [[0.5]], [0.5], 4, "tail", [[0, 4]], [[1.0, 0.0]], [0.0], [0]), 0),
        (sparse(np.zeros((1, 0)).tolist(), np.zeros((1, 0), np.float32).tolist(), [1.0], 4), 0),  # nothing is kept
    ],
)
def test_of_several_largest_targets_the_lowest_class(targets, largest):
    assert targets.argmax(-1).tolist() == [largest]
    assert targets.dense().argmax(-1).tolist() == [largest]


@pytest.mark.parametrize("policy", ["uniform", "renorm", "tail"])
def test_no_tensor_of_all_classes_is_made(policy):
    targets = sparse([[7, 3]], [[0.5, 0.25]], [0.25], 2**50, policy, [[3, 5]], [[0.5, 0.25]], [2.0**-60], [0])
    assert (targets.argmax().tolist(), targets.top1.tolist(), targets.shape) == ([7], [7], (1, 2**50))
    assert targets.entropy().isfinite().all()
    assert len(torch.cat([targets, targets[0]])) == 2


# Concatenation


@pytest.mark.parametrize("first", STRATEGIES)
@pytest.mark.parametrize("second", STRATEGIES)
def test_targets_of_different_codecs_are_joined(first, second):
    parts = [targets_of(first, 5), targets_of(second, 3, seed=1), targets_of(first, 2, seed=2)]
    joined = torch.cat(parts)
    same(joined.dense(), torch.cat([part.dense() for part in parts]))
    same(cat_targets(parts, dim=-2).dense(), joined.dense())
    assert isinstance(joined, DenseTargets if "dense" in (first, second) else SparseTargets)
    logits = torch.randn(10, 30, generator=torch.Generator().manual_seed(0))
    same(soft_cross_entropy(logits, joined, "none"), dense_losses(logits, joined.dense()))


@pytest.mark.parametrize("tails", [TAILS, ALL_CLASSES])
@pytest.mark.parametrize("other", ["marginal_smoothing:k=5", "marginal_renorm:k=3", TAILS, ALL_CLASSES])
@pytest.mark.parametrize("policy", ["uniform", "renorm", "tail"])
def test_tails_of_another_policy_are_joined(policy, other, tails):
    parts = [targets_of(tails, 5).with_policy(policy), targets_of(other, 3, seed=1), targets_of(tails, 5).with_tail_per_crop()]
    same(torch.cat(parts).dense(), torch.cat([part.dense() for part in parts]))


@pytest.mark.parametrize("codec", [ALL_CLASSES, "marginal_smoothing:t=0.05,tail=all"])
def test_tails_of_all_classes_have_a_difference_for_each_class(codec):
    targets = targets_of(codec)
    classes, extra, background = targets.above_background()
    assert (background == 0).all()
    same(torch.zeros(8, 30).scatter_add_(1, classes, extra), targets.dense())


def test_parts_of_a_batch_share_its_tails_when_they_are_joined_again():
    batch = torch.cat([targets_of(TAILS, 4, seed) for seed in range(3)])
    assert len(batch.tail_floor) == 3
    again = torch.cat([batch[rows] for rows in (slice(8, 12), [0, 1], 5)])
    assert len(again.tail_floor) == 3
    same(again.dense(), batch.dense()[[8, 9, 10, 11, 0, 1, 5]])
    even = torch.cat([batch.with_policy("uniform"), targets_of(TAILS).with_policy("uniform")])
    same(even.with_policy("tail").dense(), torch.cat([batch.dense(), targets_of(TAILS).dense()]))


def test_what_cannot_be_joined():
    targets = targets_of("hard")
    with pytest.raises(MismatchError, match="num_classes: expected targets with the same, got 30, 31"):
        torch.cat([targets, DenseTargets(torch.ones(1, 31))])
    with pytest.raises(MismatchError, match="device: expected targets with the same, got cpu, meta"):
        torch.cat([targets, DenseTargets(torch.ones(1, 30, device="meta"))])
    with pytest.raises(ArgumentError, match="dim: expected that of the crops, 0 or -2, got 1"):
        torch.cat([targets, targets], dim=1)
    with pytest.raises(ArgumentError, match="tensors: expected targets, got none"):
        cat_targets([])
    with pytest.raises(ArgumentError, match="labels: expected SparseTargets or DenseTargets, got Tensor"):
        torch.cat([targets, torch.ones(1, 30)])
    with pytest.raises(TypeError, match=r"torch\.sin"):
        torch.sin(targets)


# Trees, functional transforms, compilers


@pytest.mark.parametrize("codec", STRATEGIES)
def test_targets_are_nodes_of_a_tree(codec):
    targets = targets_of(codec)
    leaves, spec = _pytree.tree_flatten((targets, 1))
    assert len(leaves) == len(targets.tensors()) + 1
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves[:-1])
    again, _ = _pytree.tree_unflatten(leaves, _pytree.treespec_loads(_pytree.treespec_dumps(spec)))
    assert type(again) is type(targets)
    assert torch.equal(again.dense(), targets.dense())
    paths = [_pytree.keystr(path) for path, _ in _pytree.tree_flatten_with_path(targets)[0]]
    assert paths == [f".{name}" for name in targets.tensors()]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it for forward derivatives
@pytest.mark.parametrize("codec", ["hard", "marginal_smoothing:k=5", "marginal_renorm:k=5", TAILS, "dense"])
def test_the_loss_under_functional_transforms(codec):
    targets = targets_of(codec)
    probs, own = targets.dense(), targets.with_tail_per_crop() if isinstance(targets, SparseTargets) else targets
    logits = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    same(vmap(soft_cross_entropy)(logits, own), dense_losses(logits, probs))
    same(vmap(grad(soft_cross_entropy))(logits, own), torch.softmax(logits, 1) - probs)
    same(vmap(grad(soft_cross_entropy), (None, 0))(logits[0], own), torch.softmax(logits[:1], 1) - probs)
    same(grad(soft_cross_entropy)(logits, targets), (torch.softmax(logits, 1) - probs) / 8)
    same(vmap(hessian(soft_cross_entropy))(logits[:2], own[:2]), vmap(hessian(dense_losses))(logits[:2], probs[:2]))
    _, change = jvp(lambda logits: soft_cross_entropy(logits, targets), (logits,), (logits**2,))
    same(change, ((torch.softmax(logits, 1) - probs) * logits**2).sum() / 8)
    shared = logits[0].clone().requires_grad_()
    same(
        torch.autograd.grad(vmap(soft_cross_entropy, (None, 0))(shared, own).sum(), shared)[0], 8 * torch.softmax(shared, 0) - probs.sum(0)
    )


def test_the_gradient_of_each_crop_for_a_network():
    targets = targets_of(TAILS, 5)
    network, pixels = nn.Linear(6, 30), torch.randn(5, 6)

    def loss_of(weights, crop, label):
        return SoftCrossEntropy(2.0, kl=True)(torch.func.functional_call(network, weights, crop[None])[0], label)

    weights = {name: value.detach() for name, value in network.named_parameters()}
    found = vmap(grad(loss_of), (None, 0, 0))(weights, pixels, targets.with_tail_per_crop())
    for row in range(5):
        network.zero_grad()
        SoftCrossEntropy(2.0)(network(pixels[row : row + 1]), targets[row]).backward()
        same(found["weight"][row], network.weight.grad)


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=5", TAILS])
def test_a_gradient_can_be_differentiated(codec):
    targets = targets_of(codec)
    logits = torch.randn(8, 30, dtype=torch.float64, requires_grad=True)
    found = []
    for loss in (soft_cross_entropy(logits, targets, "sum"), dense_losses(logits, targets.dense()).sum()):
        (slope,) = torch.autograd.grad(loss, logits, create_graph=True)
        found.append(torch.autograd.grad((slope**3).sum(), logits)[0])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "codecs",
    [
        [f"marginal_smoothing:k={k}" for k in (5, 7, 4, 12, 9, 6, 20, 3)],
        [f"marginal_renorm:k={k}" for k in (5, 7, 4, 12, 9, 6, 20, 3)],
        [f"marginal_smoothing:k={k},tail={n}" for k, n in ((5, 11), (7, 9), (4, 14), (12, 3), (9, 20), (6, 7), (20, 4))],
        [f"marginal_smoothing:k={k},tail=all,mean=log" for k in (5, 7, 4, 12)],
        ["dense"] * 3,
    ],
    ids=["uniform", "renorm", "tail", "tail of all classes", "dense"],
)
@pytest.mark.parametrize("module", [False, True])
def test_student_and_loss_are_compiled_without_breaks_and_not_for_every_number_of_classes(codecs, module):
    torch._dynamo.reset()
    student, counter = nn.Linear(6, 30), CompileCounterWithBackend("aot_eager")
    loss = SoftCrossEntropy(4.0, kl=True, truth_weight=0.5) if module else soft_cross_entropy

    def step(pixels, targets, *classes):
        return loss(student(pixels), targets, *classes)

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for seed, codec in enumerate(codecs):
        batch = (torch.randn(16, 6), targets_of(codec, 16, seed), *([torch.arange(16)] if module else []))
        mine, theirs = compiled(*batch), step(*batch)
        same(mine, theirs)
        same(torch.autograd.grad(mine, student.weight)[0], torch.autograd.grad(theirs, student.weight)[0])
    assert counter.frame_count <= 2  # once for the first number of classes, and once for any


# The loss as a module


@pytest.mark.parametrize("codec", ["hard", "marginal_smoothing:k=5", TAILS, "dense"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_module_is_the_formula_of_hinton(codec, temperature):
    targets, classes = targets_of(codec), torch.arange(8)
    probs = targets.dense().double()
    logits = torch.randn(8, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    softened = torch.log_softmax(logits / temperature, dim=1)
    soft = {False: -(probs * softened).sum(1), True: functional.kl_div(softened, probs, reduction="none").sum(1)}
    hard = functional.cross_entropy(logits, classes, reduction="none")
    for kl, of_labels in soft.items():
        for weight in (0.0, 0.25, 1.0):
            wanted = (1 - weight) * temperature**2 * of_labels + weight * hard
            for reduction, reduced in (("none", wanted), ("sum", wanted.sum()), ("mean", wanted.mean())):
                loss = SoftCrossEntropy(temperature, kl=kl, reduction=reduction, truth_weight=weight)
                torch.testing.assert_close(loss(logits, targets, classes), reduced, rtol=1e-5, atol=1e-5)


def test_the_divergence_is_zero_for_a_student_that_says_what_labels_say():
    targets = targets_of(TAILS)
    logits = 4 * targets.dense().log()
    assert SoftCrossEntropy(4.0, kl=True)(logits, targets).abs() < 1e-4
    assert SoftCrossEntropy(4.0)(logits, targets) > 1
    slopes = []
    for kl in (False, True):
        free = torch.randn(8, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
        slopes.append(torch.autograd.grad(SoftCrossEntropy(4.0, kl=kl)(free, targets), free)[0])
    assert torch.equal(*slopes)


def test_reduced_precision_in_the_module():
    targets = targets_of(TAILS)
    logits = torch.randn(8, 30).bfloat16().requires_grad_()
    loss = SoftCrossEntropy(3.0, truth_weight=0.5)(logits, targets, torch.arange(8))
    loss.backward()
    assert (loss.dtype, logits.grad.dtype) == (torch.float32, torch.bfloat16)
    same(loss, SoftCrossEntropy(3.0, truth_weight=0.5)(logits.float(), targets, torch.arange(8)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature: expected a number from 0.0001 to 10000, got 0"),
        ({"temperature": float("nan")}, "temperature: expected a number from 0.0001 to 10000, got nan"),
        ({"truth_weight": 1.5}, "truth_weight: expected a number from 0 to 1, got 1.5"),
        ({"reduction": "batchmean"}, "reduction: expected mean, sum or none, got 'batchmean'"),
    ],
)
def test_wrong_arguments_of_the_module(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        SoftCrossEntropy(**arguments)


def test_wrong_inputs_of_the_module():
    targets, loss = targets_of("hard"), SoftCrossEntropy(truth_weight=0.5)
    assert "truth_weight=0.5" in repr(loss)
    with pytest.raises(ArgumentError, match="classes: expected the true classes, .* because truth_weight is 0.5, got None. .*target_of="):
        loss(torch.zeros(8, 30), targets)
    with pytest.raises(MismatchError, match=r"classes: expected shape \(8,\), one class per crop, got \(4,\)"):
        loss(torch.zeros(8, 30), targets, torch.arange(4))
    with pytest.raises(MismatchError, match=r"logits: expected shape \(8, 30\)"):
        loss(torch.zeros(8, 29), targets, torch.arange(8))
    with pytest.raises(MismatchError, match=r"logits: expected shape \(8, 30\)"):
        soft_cross_entropy(torch.zeros(30), targets)


# Samples and batches

KEYS = [f"{folder}/{name}.png" for folder in ("ant", "bee", "cat") for name in "xy"]
IMAGES = {key: np.full((48, 64, 3), number, np.uint8) for number, key in enumerate(KEYS)}
PIXELS = {"size": 4, "normalized": False}


@pytest.fixture
def labels(tmp_path):
    """Three classes, two images of each."""
    write_labels(tmp_path / "labels.slc", "marginal_smoothing:k=2", 3, [8] * 6, keys=KEYS)
    return tmp_path / "labels.slc"


def test_a_sample_says_which_image_it_is_of(labels):
    dataset = SoftLabelDataset(IMAGES, labels, 4, **PIXELS)
    for index in (0, 5, -1):
        sample = dataset[index]
        place = range(6)[index]
        assert (sample.index, sample.key, sample.target) == (place, KEYS[place], None)
        assert type(sample.index) is int
        assert (sample.images == place).all()
    some = SoftLabelDataset(IMAGES, labels, 2, keys=[KEYS[4], KEYS[1], KEYS[3]], **PIXELS)
    found = some.__getitems__([2, 0, 0, -2])
    assert [(sample.index, sample.key) for sample in found] == [(2, KEYS[3]), (0, KEYS[4]), (0, KEYS[4]), (1, KEYS[1])]
    assert dataset.classes is dataset.class_to_idx is None


def test_a_sample_beside_damaged_ones_says_which_image_it_is_of(tmp_path):
    path = tmp_path / "a.slc"
    images = {key: np.full((48, 64, 3), number, np.uint8) for number, key in enumerate(write_labels(path, counts=[12, 16] * 4))}
    with SoftLabelReader(path) as reader:
        start = int(reader.container.index.starts[1])
    data = bytearray(path.read_bytes())
    data[start + 50] ^= 4
    path.write_bytes(data)
    dataset = SoftLabelDataset(images, path, 2, on_corrupt="skip", target_of=lambda key: int(key[-5]), **PIXELS)
    found = dataset.__getitems__(range(8))
    assert 0 < len(found) < 8
    for sample in found:
        assert (sample.images == sample.index).all()
        assert (dataset.keys[sample.index], sample.target) == (sample.key, sample.index)


@pytest.mark.filterwarnings("ignore:.* agree with the class folders for only")
def test_true_classes_by_folder(labels):
    dataset = SoftLabelDataset(IMAGES, labels, 4, target_of="folder", **PIXELS)
    assert (dataset.classes, dataset.class_to_idx) == (["ant", "bee", "cat"], {"ant": 0, "bee": 1, "cat": 2})
    assert [dataset[index].target for index in range(6)] == [0, 0, 1, 1, 2, 2]
    some = SoftLabelDataset(IMAGES, labels, 4, target_of="folder", keys=[KEYS[5], KEYS[2]], **PIXELS)
    assert (some.classes, [sample.target for sample in some.__getitems__([0, 1])]) == (dataset.classes, [2, 1])
    assert [sample.target for sample in pickle.loads(pickle.dumps(dataset)).__getitems__([4, 0])] == [2, 0]


def test_folders_that_are_numbered_otherwise_than_labels_are_noticed(tmp_path):
    keys = [f"{folder}/{number}.png" for folder in "abcd" for number in range(3)]
    images = dict.fromkeys(keys, np.zeros((48, 64, 3), np.uint8))
    probs = {"a": 3, "b": 0, "c": 1, "d": 2}
    with SoftLabelWriter(tmp_path / "a.slc", 4, "hard") as writer:
        for key in keys:
            of_class = np.eye(4, dtype=np.float32)[[probs[key[0]]]]
            writer.add(key, image_size=(48, 64), crops=[[0, 0, 9, 9]], flips=[False], probs=of_class)
    with pytest.warns(UserWarning, match="its labels agree with the class folders for only 0.0% of the images. .* target_of="):
        SoftLabelDataset(images, tmp_path / "a.slc", 1, target_of="folder", **PIXELS)


def test_true_classes_by_a_function(labels):
    dataset = SoftLabelDataset(IMAGES, labels, 4, target_of={key: np.int64(2 - KEYS.index(key) // 2) for key in KEYS}.__getitem__, **PIXELS)
    loader = DataLoader(dataset, 2, collate_fn=collate_crops, num_workers=1)
    assert [classes.tolist() for _, _, classes in loader] == [[2] * 8, [1] * 8, [0] * 8]
    assert dataset.classes is None
    assert type(dataset[0].target) is int


@pytest.mark.parametrize(
    ("target_of", "error", "message"),
    [
        ("folders", ArgumentError, "target_of: expected 'folder', or a function from key to class, got 'folders'"),
        (3, ArgumentError, "target_of: expected 'folder', or a function from key to class, got 3"),
        (lambda key: key, ArgumentError, "target_of: image 'ant/x.png': expected the number of a class, got 'ant/x.png'"),
        (lambda key: -1, ArgumentError, "expected the number of a class, got -1"),
        (lambda key: 3, MismatchError, "target_of: image 'ant/x.png': expected one of the 3 classes of the labels, got 3"),
    ],
)
def test_true_classes_that_cannot_be(labels, target_of, error, message):
    with pytest.raises(error, match=message):
        SoftLabelDataset(IMAGES, labels, target_of=target_of, **PIXELS)


def test_true_classes_of_folders_that_are_not_there(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[4, 4], keys=["x.png", "y.png"])
    images = dict.fromkeys(["x.png", "y.png"], np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(MismatchError, match=r"target_of: expected images in class folders, .*, got the key 'x.png'. Pass a function"):
        SoftLabelDataset(images, tmp_path / "a.slc", target_of="folder")
    write_labels(tmp_path / "b.slc", counts=[4, 4], keys=["a/x.png", "b/y.png"])
    images = dict.fromkeys(["a/x.png", "b/y.png"], np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(MismatchError, match="target_of: expected a class folder for each of the 20 classes, got 2 folders. Pass"):
        SoftLabelDataset(images, tmp_path / "b.slc", target_of="folder")


@pytest.mark.parametrize("collate", [collate_crops, collate_dense])
def test_batches_have_classes_if_samples_have(labels, collate):
    plain = SoftLabelDataset(IMAGES, labels, 4, **PIXELS).__getitems__([0, 3, 4])
    told = SoftLabelDataset(IMAGES, labels, 4, target_of=lambda key: "abc".index(key[0]), **PIXELS).__getitems__([0, 3, 4])
    assert len(collate(plain)) == len(collate(plain, order="crop")) == 2
    for order, wanted in (("image", [0] * 4 + [1] * 4 + [2] * 4), ("crop", [0, 1, 2] * 4)):
        images, _, classes = collate(told, order=order)
        assert (classes.tolist(), classes.dtype) == (wanted, torch.int64)
        assert images[:, 0, 0, 0].tolist() == [(0, 3, 4)[number] for number in wanted]
    with pytest.raises(ArgumentError, match="samples: expected a target in all or in none, got 1 of 2"):
        collate([plain[0], told[1]])


@pytest.mark.parametrize("codec", STRATEGIES)
@pytest.mark.parametrize("order", ["image", "crop"])
def test_dense_batches(tmp_path, codec, order):
    write_labels(tmp_path / "a.slc", codec, 30, [8] * 6, keys=KEYS)
    loader = DataLoader(SoftLabelDataset(IMAGES, tmp_path / "a.slc", 4, **PIXELS), 3, collate_fn=partial(collate_dense, order=order))
    again = DataLoader(SoftLabelDataset(IMAGES, tmp_path / "a.slc", 4, **PIXELS), 3, collate_fn=partial(collate_crops, order=order))
    for (images, probs), (wanted, targets) in zip(loader, again, strict=True):
        assert torch.equal(images, wanted)
        assert (probs.shape, probs.dtype) == ((12, 30), torch.float32)
        assert torch.equal(probs, targets.dense())
        logits = torch.randn(12, 30)
        same(nn.CrossEntropyLoss()(logits, probs), soft_cross_entropy(logits, targets))


def test_a_batch_size_in_crops(labels):
    dataset = SoftLabelDataset(IMAGES, labels, 4, **PIXELS)
    loader = DataLoader(dataset, dataset.images_per_batch(12), collate_fn=collate_crops)
    assert [len(targets) for _, targets in loader] == [12, 12]
    with pytest.raises(ArgumentError, match="num_crops: expected a multiple of crops_per_image, 4, got 10"):
        dataset.images_per_batch(10)
    with pytest.raises(ArgumentError, match="num_crops: expected an integer of at least 1, got 0"):
        dataset.images_per_batch(0)
