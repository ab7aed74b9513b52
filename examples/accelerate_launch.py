"""Train a network from stored soft labels with Accelerate, in several processes.

    accelerate launch --num-processes 8 examples/accelerate_launch.py photos/train labels.slc --model resnet50

`examples/plain/accelerate_launch.py` is the same with the classes of images. Accelerate shares the batches among the processes, so that
the sampler must not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from torchvision import models

from softlabel_codec.torch import SoftCrossEntropy, SoftLabelDataset, SoftLabelSampler, collate_crops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Train for some epochs, and keep the weights."""
    args = parse()
    accelerator = Accelerator()
    model = models.get_model(args.model, num_classes=args.classes)
    criterion = SoftCrossEntropy()
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
    dataset = SoftLabelDataset(args.images, args.labels, size=args.size, mean=MEAN, std=STD)
    images_per_batch, sampler = dataset.images_per_batch(args.batch_size), SoftLabelSampler(dataset, rank=0, world_size=1)
    return DataLoader(dataset, images_per_batch, sampler=sampler, num_workers=args.workers, collate_fn=collate_crops)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder of training images, CLASS/NAME")
    parser.add_argument("labels", help="label file, FILE.slc")
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
