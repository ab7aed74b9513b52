"""Train from the soft labels of FKD's label files, several crops of each image that is read, mixed, in the manner of FKD's training script.

    slcodec import fkd FKD_labels labels.slc --label-type marginal_smoothing_k5 --images photos/train
    python examples/fkd.py photos/train labels.slc --model resnet50

An epoch with four crops of each image counts as four. `examples/plain/fkd.py` is the same with the classes of images.
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

from softlabel_codec.torch import SoftCrossEntropy, SoftLabelDataset, collate_crops

CROPS = 4  # of each image
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Train, and keep the weights."""
    args = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = make_loader(args)
    model = models.get_model(args.model, num_classes=args.classes).to(device)
    criterion = SoftCrossEntropy()
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
    dataset = SoftLabelDataset(args.images, args.labels, CROPS, args.size, mean=MEAN, std=STD)
    return DataLoader(dataset, args.batch_size // CROPS, shuffle=True, num_workers=args.workers, collate_fn=collate_crops)


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
    parser.add_argument("labels", help="label file, FILE.slc")
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
