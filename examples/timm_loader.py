"""Train a network of timm from stored soft labels with its loader, Mixup and CutMix, and training task, in the manner of timm's `train.py`.

    python examples/timm_loader.py photos/train labels.slc --model resnet50

`examples/plain/timm_loader.py` is the same with the classes of images. Timm's Mixup mixes the first crop with the last, and so on: with
an even number of images in a batch, these are of different images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

import timm
import timm.data
import timm.data.loader
import timm.optim
import timm.scheduler
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.task import ClassificationTask
from torch import nn

from softlabel_codec.torch import SoftLabelDataset, collate_dense

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Train for some epochs, and keep the weights."""
    args = parse()
    model = timm.create_model(args.model, num_classes=args.classes).to(DEVICE)
    loader = make_loader(args)
    mixup = timm.data.Mixup(args.mixup, args.cutmix, label_smoothing=0.0, num_classes=args.classes, multi_label=True)
    task = ClassificationTask(model, criterion=SoftTargetCrossEntropy(), device=DEVICE, verbose=False)
    optimizer = timm.optim.create_optimizer_v2(model, opt="lamb", lr=args.lr, weight_decay=0.02)
    schedule = timm.scheduler.CosineLRScheduler(optimizer, t_initial=args.epochs)
    for epoch in range(args.epochs):
        train_one_epoch(epoch, task, loader, mixup, optimizer, args)
        schedule.step(epoch + 1)
        if args.out:
            torch.save(model.state_dict(), args.out)


def make_loader(args: argparse.Namespace) -> timm.data.loader.PrefetchLoader:
    """Return batches of random crops, on the device and normalised there."""
    loading = {"num_workers": args.workers, "persistent_workers": args.workers > 0}
    dataset = SoftLabelDataset(args.images, args.labels, size=args.size, normalized=False)
    batches = torch.utils.data.DataLoader(dataset, args.batch_size // 4, shuffle=True, drop_last=True, collate_fn=collate_dense, **loading)
    return timm.data.loader.PrefetchLoader(batches, device=DEVICE)


def train_one_epoch(
    epoch: int,
    task: ClassificationTask,
    loader: timm.data.loader.PrefetchLoader,
    mixup: timm.data.Mixup,
    optimizer: torch.optim.Optimizer,
    args: argparse.Namespace,
) -> None:
    """Train for one epoch."""
    task.train()
    for step, (images, labels) in enumerate(islice(loader, args.steps)):
        images, labels = mixup(images, labels)
        loss = task(images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        print(f"epoch {epoch} step {step} loss {loss.item():.6f}", flush=True)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder of training images, CLASS/NAME")
    parser.add_argument("labels", help="label file, FILE.slc")
    parser.add_argument("--model", default="resnet50", help="name of a network of timm")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="side of a crop in pixels")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--steps", type=int, help="stop each epoch after so many batches")
    parser.add_argument("--batch-size", type=int, default=256, help="crops per step")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--mixup", type=float, default=0.1, help="alpha")
    parser.add_argument("--cutmix", type=float, default=1.0, help="alpha")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", help="file for the weights")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
