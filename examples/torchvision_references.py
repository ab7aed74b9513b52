"""Train a network of torchvision from stored soft labels with MixUp and CutMix, in the manner of torchvision's references/classification.

    python examples/torchvision_references.py photos/train labels.slc --model resnet50

`examples/plain/torchvision_references.py` is the same with the classes of images. Torchvision mixes a crop with the one before it: crops
come in the order that makes that one of another image.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.transforms import v2

from softlabel_codec.torch import SoftLabelDataset, collate_dense

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Mixing:
    """Collates a batch, and mixes its images and labels."""

    def __init__(self, args: argparse.Namespace) -> None:
        mixings = []
        if args.mixup_alpha:
            mixings.append(v2.MixUp(alpha=args.mixup_alpha, num_classes=args.classes))
        if args.cutmix_alpha:
            mixings.append(v2.CutMix(alpha=args.cutmix_alpha, num_classes=args.classes))
        self.mix = v2.RandomChoice(mixings) if mixings else v2.Identity()

    def __call__(self, samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        return self.mix(*collate_dense(samples, order="crop"))


def main() -> None:
    """Train for some epochs, with a warm-up, and keep the weights."""
    args = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = make_loader(args)
    model = models.get_model(args.model, num_classes=args.classes).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, nesterov=True, weight_decay=2e-5)
    warmup = LinearLR(optimizer, start_factor=0.01, total_iters=args.warmup_epochs)
    decay = CosineAnnealingLR(optimizer, max(args.epochs - args.warmup_epochs, 1))
    schedule = SequentialLR(optimizer, [warmup, decay], milestones=[args.warmup_epochs])
    for epoch in range(args.epochs):
        train_one_epoch(model, criterion, optimizer, loader, device, epoch, args)
        schedule.step()
        if args.out:
            torch.save({"model": model.state_dict(), "epoch": epoch}, args.out)


def make_loader(args: argparse.Namespace) -> DataLoader:
    """Return batches of mixed random crops."""
    dataset = SoftLabelDataset(args.images, args.labels, size=args.size, mean=MEAN, std=STD)
    return DataLoader(dataset, args.batch_size // 4, drop_last=True, shuffle=True, num_workers=args.workers, collate_fn=Mixing(args))


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    device: torch.device,
    epoch: int,
    args: argparse.Namespace,
) -> None:
    """Train for one epoch."""
    model.train()
    for step, (images, labels) in enumerate(islice(loader, args.steps)):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(device.type, enabled=args.amp):
            logits = model(images)
            loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.clip_grad_norm)
        optimizer.step()
        print(f"epoch {epoch} step {step} loss {loss.item():.6f}", flush=True)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder of training images, CLASS/NAME")
    parser.add_argument("labels", help="label file, FILE.slc")
    parser.add_argument("--model", default="resnet50", help="name of a network of torchvision")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="side of a crop in pixels")
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--steps", type=int, help="stop each epoch after so many batches")
    parser.add_argument("--batch-size", type=int, default=128, help="crops per step")
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--warmup-epochs", type=int, default=5)
    parser.add_argument("--mixup-alpha", type=float, default=0.2)
    parser.add_argument("--cutmix-alpha", type=float, default=1.0)
    parser.add_argument("--clip-grad-norm", type=float, default=5.0)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", help="file for a checkpoint")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
