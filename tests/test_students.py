"""Built-in students, and students by name."""

import pytest
import torch
from torch import nn

from softlabel_codec import ArgumentError, CorruptError, MismatchError
from softlabel_codec.students import STUDENTS, build_student, check_student, load_weights, read_weights

PUBLISHED = {  # parameters with 1000 classes: torchvision's tables of models
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_number_of_parameters(name):
    assert sum(parameter.numel() for parameter in build_student(name, 1000).parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", STUDENTS)
def test_all_networks_learn_from_small_images(name):
    torch.manual_seed(0)
    size = 32 if name.endswith(("_small", "small")) else 64
    model = build_student(name, 7, size)
    logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_stems_for_small_images_keep_their_size():
    with torch.no_grad():
        assert build_student("resnet18", 5).features(torch.zeros(1, 3, 64, 64)).shape[2:] == (2, 2)
        assert build_student("resnet18_small", 5).features(torch.zeros(1, 3, 64, 64)).shape[2:] == (8, 8)


@pytest.mark.parametrize("name", STUDENTS)
def test_the_mean_of_the_map_is_the_prediction(name):
    torch.manual_seed(0)
    model, images = build_student(name, 6, 64).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.logit_map(images).mean(dim=(2, 3)), model(images), rtol=1e-4, atol=1e-4)


def test_names_of_weights_are_those_of_torchvision():
    names = set(build_student("resnet50", 1000).state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias",
        "layer4.2.bn3.weight",
    } <= names
    assert {"layer2.3.conv2.weight", "fc.weight", "fc.bias"} <= names
    assert len(names) == 320


def test_a_trial_leaves_weights_as_they_are():
    torch.manual_seed(0)
    model = build_student("resnet18_small", 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_student(model, "resnet18_small", 5, 16)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(MismatchError, match=r"student mine: expected logits of shape \(2, 4\) for 2 images, got shape \(2, 5\)"):
        check_student(model, "mine", 4, 16)


def test_a_student_of_somebody_else(shapes, tmp_path):
    assert build_student(f"{shapes / 'teacher.py'}:plain", 9)(torch.zeros(1, 3, 16, 16)).shape == (1, 9)
    with pytest.raises(ArgumentError, match=r"student: .*teacher\.py has no function 'nobody'; it has .*plain"):
        build_student(f"{shapes / 'teacher.py'}:nobody", 9)
    (tmp_path / "odd.py").write_text("def make(num_classes):\n    return [num_classes]\n")
    with pytest.raises(MismatchError, match=r"student: .*odd\.py:make returned list: expected a torch\.nn\.Module"):
        build_student(f"{tmp_path / 'odd.py'}:make", 9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "did you mean 'resnet1"),
        ("vit_tiny", "expected one of small, resnet18, .*timm:NAME, torchvision:NAME"),
        ("transformer-xxl", "expected one of small, resnet18"),
        ("no_such_library_file.py:make", "file not found"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ArgumentError, match=f"student: .*{message}"):
        build_student(name, 10)


def test_weights_come_back(tmp_path):
    torch.manual_seed(0)
    first, second = build_student("small", 4), build_student("small", 4)
    torch.save(first.state_dict(), tmp_path / "a.pt")
    load_weights(second, tmp_path / "a.pt")
    torch.testing.assert_close(second.head.weight, first.head.weight, rtol=0, atol=0)
    torch.save({"model": first.state_dict(), "epoch": 3}, tmp_path / "b.pt")
    load_weights(second, tmp_path / "b.pt")


def test_files_that_hold_no_weights(tmp_path):
    model = build_student("small", 4)
    torch.save(build_student("small", 5).state_dict(), tmp_path / "other.pt")
    with pytest.raises(MismatchError, match=r"other\.pt: the weights of another network: .*head"):
        load_weights(model, tmp_path / "other.pt")
    torch.save(build_student("resnet50", 4).state_dict(), tmp_path / "large.pt")
    with pytest.raises(MismatchError, match=r"large\.pt: the weights of another network: Missing.*\.\.\. Unexpected.*\.\.\.") as refused:
        load_weights(model, tmp_path / "large.pt")
    assert len(str(refused.value)) < 700
    torch.save(nn.Linear(2, 2), tmp_path / "code.pt")
    with pytest.raises(CorruptError, match=r"code\.pt: no weights that can be read"):
        read_weights(tmp_path / "code.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise" * 99)
    with pytest.raises(CorruptError, match=r"noise\.pt: no weights that can be read"):
        read_weights(tmp_path / "noise.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CorruptError, match=r"list\.pt: expected a state_dict, got list"):
        read_weights(tmp_path / "list.pt")
