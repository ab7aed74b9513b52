"""What becomes of a student: the backbone of a detector of torchvision, and pictures of what it looks at (`make test-others`)."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image
from shapes import COLORS, config
from written_coco import write_coco

from softlabel_codec import SoftLabelError
from softlabel_codec.students import build_student
from softlabel_codec.students.weights import save_weights
from softlabel_codec.trainer import train

pytestmark = pytest.mark.others

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = ["--train", "train", "--val", "val", "--min-size", 64, "--batch-size", 8, "--trainable-layers", 5, "--workers", 0]


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, words, monkeypatch, capsys):
    """Run a script, and return the lines that it printed."""
    monkeypatch.setattr("sys.argv", [module.__file__, *map(str, words)])
    module.main()
    return capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def student(shapes, tmp_path_factory):
    """The weights of a student that was trained from stored labels."""
    out = tmp_path_factory.mktemp("student") / "run"
    train(config(shapes, out, student="resnet18", size=32, epochs=2, batch_size=10, learning_rate=0.02, val_epochs=2))
    return out / "weights.pt"


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, {"train": 32, "val": 4})
    return folder


@pytest.mark.parametrize("detector", ["fasterrcnn", "retinanet"])
def test_a_detector_begins_with_the_weights_of_the_student(detector, student, coco):
    module = example("detection")
    model = module.make_detector(module.parse([str(student), str(coco), "--detector", detector]), num_classes=8)
    kept = torch.load(student, weights_only=True)
    body = model.backbone.body.state_dict()
    assert body.keys() == {name for name in kept if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}
    assert all(torch.equal(value, kept[name]) for name, value in body.items())
    assert (model.transform.image_mean, model.transform.image_std) == ([0.5] * 3, [0.5] * 3)
    trained = {name.split(".")[0] for name, value in model.backbone.body.named_parameters() if value.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}


def test_a_detector_learns(student, coco, tmp_path, monkeypatch, capsys):
    learning = ["--detector", "retinanet", "--epochs", 4, "--lr", 0.04, "--out", tmp_path / "detector.pt"]
    printed = run(example("detection"), [student, coco, *TINY, *learning], monkeypatch, capsys)
    losses = [float(line.rpartition(" ")[2]) for line in printed if line.startswith("epoch ")]
    assert len(losses) == 4 * 4  # 31 images with boxes, in batches of 8
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])
    assert 0 <= float(printed[-1].removeprefix("AP ")) <= 1
    assert "backbone.body.conv1.weight" in torch.load(tmp_path / "detector.pt", weights_only=True)


def test_the_default_detector_trains_and_is_evaluated(student, coco, monkeypatch, capsys):
    printed = run(example("detection"), [student, coco, *TINY, "--batch-size", 2, "--epochs", 1, "--steps", 1], monkeypatch, capsys)
    (step,) = [line for line in printed if line.startswith("epoch ")]
    assert np.isfinite(float(step.rpartition(" ")[2]))
    assert float(printed[-1].removeprefix("AP ")) < 0.05  # one step teaches nothing


class Knows(torch.nn.Module):
    """Returns the boxes that are there, moved by some pixels."""

    def __init__(self, boxes, moved):
        super().__init__()
        self.targets, self.moved = iter(boxes[place][2] for place in range(len(boxes))), moved

    def forward(self, images):
        target = next(self.targets)
        shift = torch.tensor([self.moved, 0, self.moved, 0])
        return [{"boxes": target["boxes"] + shift, "labels": target["labels"], "scores": torch.ones(len(target["labels"]))}]


def test_average_precision(coco):
    boxes = example("detection").Boxes(coco, "val", mirror=False)
    assert (len(boxes), len(boxes[3][2]["boxes"])) == (4, 0)
    judge = example("detection").average_precision
    assert judge(Knows(boxes, 0), boxes, workers=0) == pytest.approx(1.0)
    assert judge(Knows(boxes, 100), boxes, workers=0) == 0.0
    targets = [boxes[place][2]["boxes"] for place in range(4)]
    from torchvision.ops import box_iou

    overlaps = torch.cat([box_iou(one, one + torch.tensor([5, 0, 5, 0])).diag() for one in targets])
    right = [float((overlaps > least).double().mean()) for least in np.linspace(0.5, 0.95, 10)]
    assert 0 < judge(Knows(boxes, 5), boxes, workers=0) <= max(right)

    class Nothing(torch.nn.Module):
        def forward(self, images):
            return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}]

    assert judge(Nothing(), boxes, workers=0) == 0.0


def test_boxes_are_mirrored_with_their_images(coco):
    number_of = {2 * number + 1: color for number, color in enumerate(COLORS.values())}
    for mirror in (False, True):
        boxes = example("detection").Boxes(coco, "train", mirror)
        assert len(boxes) == (31 if mirror else 32)  # one has no boxes
        for place in range(8):
            _, image, target = boxes[place]
            assert len(target["boxes"]) == 2  # without the crowd
            for (left, top, right, bottom), label in zip(target["boxes"].int().tolist(), target["labels"].tolist(), strict=True):
                inner = 255 * image[:, top + 4 : bottom - 4, left + 4 : right - 4].mean((1, 2))
                torch.testing.assert_close(inner, torch.tensor(number_of[label]).float(), atol=12, rtol=0)


def test_a_student_that_is_no_residual_network_is_refused(coco, tmp_path):
    module = example("detection")
    save_student("small", 4, 32, tmp_path)
    with pytest.raises(SystemExit, match=r"weights\.pt: expected a ResNet as torchvision builds it, got student small"):
        module.make_detector(module.parse([str(tmp_path / "weights.pt"), str(coco)]), num_classes=8)


SPOTS = """
import torch
from torch import nn

def patches(images):
    return images.unfold(2, 8, 8).unfold(3, 8, 8).mean((1, 4, 5)).flatten(1)[:, :, None]  # (B, 16, 1): how bright each is

class Spots(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.head = nn.Linear(4, num_classes)
        nn.init.constant_(self.conv.weight, 0.01)
        nn.init.constant_(self.conv.bias, 2.0)
        nn.init.constant_(self.head.weight, 1.0)

    def forward(self, images):
        return self.head(self.conv(images).relu().mean((2, 3)))

class Attends(nn.Module):
    '''Every place attends to those that are bright.'''
    def __init__(self, num_classes):
        super().__init__()
        self.attention = nn.MultiheadAttention(1, 1, batch_first=True)
        self.head = nn.Linear(1, num_classes)
        nn.init.constant_(self.attention.in_proj_weight, 1.0)
        nn.init.constant_(self.attention.in_proj_bias, 2.0)

    def forward(self, images):
        tokens = nn.functional.pad(patches(images), (0, 0, 1, 0))  # one of the class comes first
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0][:, 0])
"""

VIT = """
from torchvision.models import VisionTransformer

def vit(num_classes):
    return VisionTransformer(64, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=num_classes)
"""


def save_student(name, num_classes, size, out, **more):
    """Keep the new weights of a network as a run does."""
    torch.manual_seed(0)
    about = {"student": name, "num_classes": num_classes, "size": size, "crop": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3, **more}
    out.mkdir(exist_ok=True)
    save_weights(out / "weights.pt", build_student(name, num_classes, size), about)
    return out / "weights.pt"


@pytest.fixture
def spot(tmp_path):
    """An image that is bright in the second of four rows, third of four columns."""
    pixels = np.full((32, 32, 3), 20, np.uint8)
    pixels[8:16, 16:24] = 250
    Image.fromarray(pixels).save(tmp_path / "spot.png")
    (tmp_path / "spots.py").write_text(SPOTS)
    return tmp_path / "spot.png"


@pytest.mark.parametrize("name", ["Spots", "Attends"])
def test_maps_show_the_place_that_counts(name, spot, tmp_path):
    module = example("attention")
    looker = module.Looker(module.load_student(save_student(f"{tmp_path}/spots.py:{name}", 3, 32, tmp_path / name)))
    for turned in (False, True):
        image = Image.open(spot).transpose(Image.Transpose.TRANSPOSE) if turned else Image.open(spot)
        heat, number, prob = looker.look(module.seen(image, looker.student), target=1)
        assert (heat.shape, number) == ((4, 4), 1)
        assert 0 < prob < 1
        assert divmod(int(heat.argmax()), 4) == ((2, 1) if turned else (1, 2))
        assert (float(heat.min()), float(heat.max())) == (0, 1)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("timm:test_vit", (4, 4)), ("vit", (8, 8)), ("timm:mobilenetv3_small_050", (2, 2)), ("small", (8, 8))],
)
def test_maps_of_networks_of_libraries(name, shape, spot, tmp_path):
    module = example("attention")
    (tmp_path / "vit.py").write_text(VIT)
    name = f"{tmp_path}/vit.py:vit" if name == "vit" else name
    looker = module.Looker(module.load_student(save_student(name, 5, 64, tmp_path / "run")))
    heat, number, prob = looker.look(module.seen(Image.open(spot), looker.student), target=None)
    assert heat.shape == shape
    assert heat.isfinite().all()
    assert len(heat.unique()) > 1
    assert prob >= 1 / 5
    assert looker.name(number) == str(number)


def test_a_picture_of_two_students(spot, tmp_path, monkeypatch, capsys):
    weights = [save_student(f"{tmp_path}/spots.py:Spots", 3, 32, tmp_path / name, folders=["ant", "bee", "cat"]) for name in ("one", "two")]
    out = tmp_path / "attention.png"
    (tmp_path / "names.txt").write_text("an ant\na bee\n")
    (tmp_path / "bee").mkdir()
    shutil.copy(spot, tmp_path / "bee")
    words = [weights[0], spot, tmp_path / "bee" / "spot.png", "--beside", weights[1], "--target", 1, "--out", out]
    words += ["--class-names", tmp_path / "names.txt"]
    said = []
    monkeypatch.setattr(Axes, "set_xlabel", lambda axis, text, **how: said.append(text))
    assert run(example("attention"), words, monkeypatch, capsys) == [f"{out}: 2 images, 2 students"]
    image = Image.open(out)
    assert (image.format, image.size) == ("PNG", (1080, 825))
    assert [text.partition(",")[0] for text in said] == ["spot.png", *["a bee"] * 2] * 2
    assert [text[-1] for text in said] == ["g", "%", "%", "g", "\u2713", "\u2713"]
    pixels = np.asarray(image.convert("RGB")).astype(int)
    for column, colors in enumerate((False, True, True)):  # the image, which is grey, and two maps
        part = pixels[:, 360 * column : 360 * (column + 1)]
        assert bool((part[:, :, 0] - part[:, :, 2]).max() > 60) is colors


def test_what_cannot_be_drawn(spot, tmp_path):
    module = example("attention")
    looker = module.Looker(module.load_student(save_student(f"{tmp_path}/spots.py:Spots", 3, 32, tmp_path / "run")))
    with pytest.raises(SystemExit, match="--target: expected a class below 3, got 3"):
        looker.look(module.seen(Image.open(spot), looker.student), target=3)
    (tmp_path / "flat.py").write_text("from torch import nn\ndef flat(n): return nn.Sequential(nn.Flatten(), nn.Linear(3072, n))")
    looker = module.Looker(module.load_student(save_student(f"{tmp_path}/flat.py:flat", 3, 32, tmp_path / "flat")))
    with pytest.raises(SystemExit, match="expected a network with features"):
        looker.look(module.seen(Image.open(spot), looker.student), target=None)
    windows = save_student("timm:swin_tiny_patch4_window7_224", 3, 224, tmp_path / "swin")
    looker = module.Looker(module.load_student(windows))
    with pytest.raises(SystemExit, match="expected attention between all places"):
        looker.look(module.seen(Image.open(spot), looker.student), target=None)
    (tmp_path / "run" / "weights.json").unlink()
    with pytest.raises(SoftLabelError, match="holds weights only"):
        module.load_student(tmp_path / "run" / "weights.pt")
    assert json.loads((tmp_path / "flat" / "weights.json").read_text())["num_classes"] == 3
