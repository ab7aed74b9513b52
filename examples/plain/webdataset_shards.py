"""Train a network from the images and classes in WebDataset shards.

    python examples/plain/webdataset_shards.py "shards/train-{000000..000146}.tar" --model resnet50

`examples/webdataset_shards.py` is the same with stored soft labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

import torch
import webdataset
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Train for some epochs, and keep the weights."""
    args = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = make_loader(args)
    model = models.get_model(args.model, num_classes=args.classes).to(device)
    criterion = torch.nn.CrossEntropyLoss()
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
    """Return batches of random crops, of all shards in an order of their own in each epoch."""
    pixels = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    crop = v2.Compose([v2.RandomResizedCrop(args.size), v2.RandomHorizontalFlip(), *pixels])
    stream = webdataset.WebDataset(args.shards, shardshuffle=100).shuffle(args.shuffle)
    stream = stream.decode("pilrgb").to_tuple("jpg;jpeg;png", "cls").map_tuple(crop)
    return DataLoader(stream, args.batch_size, num_workers=args.workers)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="tar files, {FIRST..LAST}")
    parser.add_argument("--model", default="resnet50", help="name of a network of torchvision")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="side of a crop in pixels")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--steps", type=int, help="stop each epoch after so many batches")
    parser.add_argument("--batch-size", type=int, default=256, help="crops per step")
    parser.add_argument("--shuffle", type=int, default=5000, help="images to choose the next one from")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", help="file for the weights")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
