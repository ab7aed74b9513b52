"""Train a detector of torchvision on the weights of a student, and evaluate it: Faster R-CNN or RetinaNet on a folder as of COCO.

    slcodec train --labels labels.slc --images photos/train --student resnet50 --out run ...
    python examples/detection.py run/weights.pt coco --out detector.pt

The student is a ResNet. `coco` holds the folders `train2017`, `val2017` and `annotations`. The last line is the average precision on
the validation images, as pycocotools computes it. `--epochs 0` evaluates an untrained detector.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms.v2 import functional

from softlabel_codec.evaluate import load_student

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Train for some epochs, and evaluate."""
    args = parse()
    torch.manual_seed(args.seed)
    train, val = (Boxes(args.coco, split, mirror) for split, mirror in ((args.train, True), (args.val, False)))
    if missing := {*val.coco.getCatIds()} - {*train.coco.getCatIds()}:
        raise SystemExit(f"{args.val}: expected categories of {args.train} only, got also {sorted(missing)}")
    model = make_detector(args, num_classes=max(train.coco.getCatIds()) + 1).to(DEVICE)  # number 0 is the background
    loader = DataLoader(train, args.batch_size, shuffle=True, num_workers=args.workers, collate_fn=list)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], args.lr, momentum=0.9, weight_decay=1e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.001, total_iters=min(1000, len(loader), args.steps or len(loader)))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, args.lr_steps, gamma=0.1)
    for epoch in range(args.epochs):
        model.train()
        for step, samples in enumerate(islice(loader, args.steps)):
            images = [image.to(DEVICE) for _, image, _ in samples]
            targets = [{name: value.to(DEVICE) for name, value in target.items()} for *_, target in samples]
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            if not epoch:
                warmup.step()
            print(f"epoch {epoch} step {step} loss {loss.item():.6f}", flush=True)
        schedule.step()
        if args.out:
            torch.save(model.state_dict(), args.out)
    print(f"AP {average_precision(model, val, args.workers):.4f}", flush=True)


def make_detector(args: argparse.Namespace, num_classes: int) -> nn.Module:
    """Return a detector whose backbone has the student's weights, with its normalisation of images; all else is new."""
    student, about = load_student(args.weights), json.loads(args.weights.with_suffix(".json").read_text())
    make, levels = detection.FasterRCNN, {}
    if args.detector == "retinanet":
        make, levels = detection.RetinaNet, {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    how = {"backbone_name": about["student"].rpartition(":")[2], "weights": None, "trainable_layers": args.trainable_layers}
    try:
        backbone = resnet_fpn_backbone(**how, **levels)
        backbone.body.load_state_dict({key: value for key, value in student.model.state_dict().items() if not key.startswith("fc.")})
    except (KeyError, RuntimeError):
        raise SystemExit(f"{args.weights}: expected a ResNet as torchvision builds it, got student {about['student']}") from None
    return make(backbone, num_classes, args.min_size, args.max_size, student.mean, student.std)


class Boxes(Dataset):
    """Images of a folder as of COCO with their boxes: number of the image, tensor (3, H, W) from 0 to 1, and torchvision's target."""

    def __init__(self, folder: Path, split: str, mirror: bool) -> None:
        self.folder, self.mirror = folder / split, mirror
        self.coco = COCO(folder / "annotations" / f"instances_{split}.json")
        self.numbers = sorted(self.coco.getImgIds())
        if mirror:  # in training, images without boxes teach nothing
            self.numbers = [number for number in self.numbers if self.coco.getAnnIds(number, iscrowd=False)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> tuple[int, Tensor, dict[str, Tensor]]:
        number = self.numbers[place]
        image = functional.to_image(Image.open(self.folder / self.coco.loadImgs(number)[0]["file_name"]).convert("RGB"))
        found = self.coco.loadAnns(self.coco.getAnnIds(number, iscrowd=False))
        boxes = torch.tensor([one["bbox"] for one in found], dtype=torch.float32).reshape(-1, 4)
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)  # left, top, right, bottom
        boxes[:, 0::2].clamp_(0, image.shape[2])
        boxes[:, 1::2].clamp_(0, image.shape[1])
        if self.mirror and torch.rand(()) < 0.5:
            image, boxes[:, [0, 2]] = image.flip(2), image.shape[2] - boxes[:, [2, 0]]
        whole = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        labels = torch.tensor([one["category_id"] for one in found], dtype=torch.int64)
        return number, functional.to_dtype(image, torch.float32, scale=True), {"boxes": boxes[whole], "labels": labels[whole]}


@torch.inference_mode()
def average_precision(model: nn.Module, val: Boxes, workers: int) -> float:
    """Return COCO's AP, the mean over categories and over overlaps of 0.5 to 0.95."""
    model.eval()
    rows = []
    for ((number, image, _),) in DataLoader(val, 1, num_workers=workers, collate_fn=list):
        found = {name: value.cpu() for name, value in model([image.to(DEVICE)])[0].items()}
        for (left, top, right, bottom), score, label in zip(*(found[name].tolist() for name in ("boxes", "scores", "labels")), strict=True):
            box = [left, top, right - left, bottom - top]
            rows.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
    if not rows:  # which pycocotools does not take
        return 0.0
    judge = COCOeval(val.coco, val.coco.loadRes(rows), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return float(judge.stats[0])


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="weights.pt of a run of slcodec train, with weights.json beside it")
    parser.add_argument("coco", type=Path, help="folder with images and annotations")
    parser.add_argument("--train", default="train2017", help="folder of training images; annotations/instances_NAME.json")
    parser.add_argument("--val", default="val2017", help="likewise")
    parser.add_argument("--detector", choices=["fasterrcnn", "retinanet"], default="fasterrcnn")
    parser.add_argument("--trainable-layers", type=int, default=3, help="stages of the backbone that are trained, from the last: 0 to 5")
    parser.add_argument("--epochs", type=int, default=26)
    parser.add_argument("--lr-steps", type=int, nargs="+", default=[16, 22], help="epochs after which the learning rate falls to a tenth")
    parser.add_argument("--steps", type=int, help="stop each epoch after so many batches")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.02, help="for batches of 16; in proportion for others; RetinaNet: half of it")
    parser.add_argument("--min-size", type=int, default=800, help="shorter side that images are scaled to")
    parser.add_argument("--max-size", type=int, default=1333, help="longest side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, help="file for the weights of the detector")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
