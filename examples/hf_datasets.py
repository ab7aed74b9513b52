"""Train a network from a dataset of Hugging Face with the column `image`, and stored soft labels.

    python examples/hf_datasets.py ILSVRC/imagenet-1k labels.slc --model resnet50

`examples/plain/hf_datasets.py` is the same with the column `label`. Images stay files, with their names, until they are cut.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

import datasets
import torch
from torch.utils.data import DataLoader
from torchvision import models

from softlabel_codec.torch import LabelledCrops, SoftCrossEntropy, collate_crops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Train for some epochs, and keep the weights."""
    args = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = make_loader(args)
    model = models.get_model(args.model, num_classes=args.classes).to(device)
    criterion = SoftCrossEntropy()
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    for epoch in range(args.epochs):
        model.train()
        for step, (images, labels) in enumerate(islice(loader, args.steps)):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"epoch {epoch} step {step} loss {loss.item():.6f}", flush=True)
        schedule.step()
        if args.out:
            torch.save(model.state_dict(), args.out)


def make_loader(args: argparse.Namespace) -> DataLoader:
    """Return batches of random crops."""
    dataset = datasets.load_dataset(args.dataset, split="train")
    crops = LabelledCrops(args.labels, size=args.size, match="basename", mean=MEAN, std=STD)
    dataset = dataset.cast_column("image", datasets.Image(decode=False)).with_transform(crops.batched)
    return DataLoader(dataset, args.batch_size // 4, shuffle=True, num_workers=args.workers, collate_fn=collate_crops)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="name of a dataset, or a folder with its Parquet files")
    parser.add_argument("labels", help="label file, FILE.slc")
    parser.add_argument("--model", default="resnet50", help="name of a network of torchvision")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="side of a crop in pixels")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--steps", type=int, help="stop each epoch after so many batches")
    parser.add_argument("--batch-size", type=int, default=256, help="crops per step")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", help="file for the weights")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
