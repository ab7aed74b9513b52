"""Train from several random crops of each image that is read, mixed, in the manner of FKD's training script.

    python examples/plain/fkd.py photos/train --model resnet50

An epoch with four crops of each image counts as four. `examples/fkd.py` is the same with the soft labels of FKD's label files.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

CROPS = 4  # of each image
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CropsOfImages(ImageFolder):
    """Several random crops of each image, and its class for each."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, label = self.samples[index]
        image = self.loader(path)
        return torch.stack([self.transform(image) for _ in range(CROPS)]), torch.full((CROPS,), label)


def collate(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return a batch of crops, image by image."""
    images, labels = zip(*samples, strict=True)
    return torch.cat(images), torch.cat(labels)


def main() -> None:
    """Train, and keep the weights."""
    args = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = make_loader(args)
    model = models.get_model(args.model, num_classes=args.classes).to(device)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    for epoch in range(0, args.epochs, CROPS):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * (1 + math.cos(math.pi * epoch / args.epochs)) / 2
        model.train()
        for step, (images, labels) in enumerate(islice(loader, args.steps)):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            images, partner, share = mix(images, args)
            logits = model(images)
            loss = share * criterion(logits, labels) + (1 - share) * criterion(logits, labels[partner])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"epoch {epoch} step {step} loss {loss.item():.6f}", flush=True)
        if args.out:
            torch.save(model.state_dict(), args.out)


def make_loader(args: argparse.Namespace) -> DataLoader:
    """Return batches of random crops, image by image."""
    pixels = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    dataset = CropsOfImages(args.images, v2.Compose([v2.RandomResizedCrop(args.size), v2.RandomHorizontalFlip(), *pixels]))
    return DataLoader(dataset, args.batch_size // CROPS, shuffle=True, num_workers=args.workers, collate_fn=collate)


def mix(images: Tensor, args: argparse.Namespace) -> tuple[Tensor, Tensor, float]:
    """Return the crops mixed with those of the next image, the row of each crop's partner, and the crop's own share."""
    partner = torch.arange(len(images), device=images.device).roll(CROPS)
    share = np.random.beta(args.mix_alpha, args.mix_alpha) if args.mix_alpha else 1.0
    if np.random.rand() < args.cutmix_share:
        height, width = (round(math.sqrt(1 - share) * side) for side in images.shape[2:])
        top, left = np.random.randint(images.shape[2] - height + 1), np.random.randint(images.shape[3] - width + 1)
        mixed = images.clone()
        mixed[:, :, top : top + height, left : left + width] = images[partner, :, top : top + height, left : left + width]
        return mixed, partner, 1 - height * width / images[0, 0].numel()
    return share * images + (1 - share) * images[partner], partner, share


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder of training images, CLASS/NAME")
    parser.add_argument("--model", default="resnet50", help="name of a network of torchvision")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="side of a crop in pixels")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--steps", type=int, help="stop each epoch after so many batches")
    parser.add_argument("--batch-size", type=int, default=1024, help="crops per step")
    parser.add_argument("--lr", type=float, default=0.4)
    parser.add_argument("--mix-alpha", type=float, default=1.0, help="of the beta distribution of shares; 0: no mixing")
    parser.add_argument("--cutmix-share", type=float, default=0.5, help="of the batches that are mixed by CutMix, not Mixup")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", help="file for the weights")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
