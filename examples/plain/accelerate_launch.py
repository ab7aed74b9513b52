"""Train a network with Accelerate, in several processes.

    accelerate launch --num-processes 8 examples/plain/accelerate_launch.py photos/train --model resnet50

`examples/accelerate_launch.py` is the same with stored soft labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Train for some epochs, and keep the weights."""
    args = parse()
    accelerator = Accelerator()
    model = models.get_model(args.model, num_classes=args.classes)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), args.lr * accelerator.num_processes, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    model, optimizer, loader = accelerator.prepare(model, optimizer, make_loader(args))
    for epoch in range(args.epochs):
        loader.set_epoch(epoch)
        model.train()
        for step, (images, labels) in enumerate(islice(loader, args.steps)):
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            mean = accelerator.reduce(loss.detach(), "mean")
            accelerator.print(f"epoch {epoch} step {step} loss {mean.item():.6f}", flush=True)
        schedule.step()
        if args.out:
            accelerator.save(accelerator.unwrap_model(model).state_dict(), args.out)
    accelerator.end_training()


def make_loader(args: argparse.Namespace) -> DataLoader:
    """Return batches of random crops, which Accelerate shares among the processes."""
    pixels = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    dataset = ImageFolder(args.images, v2.Compose([v2.RandomResizedCrop(args.size), v2.RandomHorizontalFlip(), *pixels]))
    return DataLoader(dataset, args.batch_size, shuffle=True, num_workers=args.workers)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder of training images, CLASS/NAME")
    parser.add_argument("--model", default="resnet50", help="name of a network of torchvision")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="side of a crop in pixels")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--steps", type=int, help="stop each epoch after so many batches")
    parser.add_argument("--batch-size", type=int, default=256, help="crops per step and process")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", help="file for the weights")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
