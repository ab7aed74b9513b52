"""Train a network of torchvision from stored soft labels, in the manner of the ImageNet script of pytorch/examples.

    python examples/imagenet.py photos/train labels.slc --val photos/val --model resnet50

`examples/plain/imagenet.py` is the same with the classes of images. In training, top-1 is the agreement with the teacher here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from softlabel_codec.torch import SoftCrossEntropy, SoftLabelDataset, collate_crops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Train for some epochs, validate after each, and keep the weights."""
    args = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = make_loader(args)
    model = models.get_model(args.model, num_classes=args.classes).to(device)
    criterion = SoftCrossEntropy()
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    for epoch in range(args.epochs):
        train(loader, model, criterion, optimizer, device, epoch, args)
        if args.val:
            validate(make_validation_loader(args), model, device)
        schedule.step()
        if args.out:
            torch.save(model.state_dict(), args.out)


def make_loader(args: argparse.Namespace) -> DataLoader:
    """Return batches of random crops."""
    dataset = SoftLabelDataset(args.images, args.labels, size=args.size, mean=MEAN, std=STD)
    return DataLoader(dataset, dataset.images_per_batch(args.batch_size), shuffle=True, num_workers=args.workers, collate_fn=collate_crops)


def make_validation_loader(args: argparse.Namespace) -> DataLoader:
    """Return batches of the centres of images."""
    pixels = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    centres = v2.Compose([v2.Resize(args.size * 8 // 7), v2.CenterCrop(args.size), *pixels])
    return DataLoader(ImageFolder(args.val, centres), args.batch_size, num_workers=args.workers)


def train(
    loader: DataLoader,
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    epoch: int,
    args: argparse.Namespace,
) -> None:
    """Train for one epoch."""
    model.train()
    for step, (images, labels) in enumerate(islice(loader, args.steps)):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits = model(images)
        loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        top1 = (logits.argmax(1) == labels.top1).float().mean()
        if step % args.print_every == 0:
            print(f"epoch {epoch} step {step} loss {loss.item():.6f} top-1 {top1:.2%}", flush=True)


@torch.inference_mode()
def validate(loader: DataLoader, model: nn.Module, device: torch.device) -> None:
    """Print the shares of images whose class is the most probable one, and among the five most probable."""
    model.eval()
    ranks: list[Tensor] = []
    for images, classes in loader:
        best = model(images.to(device)).topk(5).indices.cpu()
        ranks.append(best == classes[:, None])
    found = torch.cat(ranks).float()
    print(f"validation top-1 {found[:, 0].mean():.2%} top-5 {found.sum(1).mean():.2%}", flush=True)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder of training images, CLASS/NAME")
    parser.add_argument("labels", help="label file, FILE.slc")
    parser.add_argument("--val", help="folder of validation images, CLASS/NAME")
    parser.add_argument("--model", default="resnet50", help="name of a network of torchvision")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="side of a crop in pixels")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--steps", type=int, help="stop each epoch after so many batches")
    parser.add_argument("--batch-size", type=int, default=256, help="crops per step")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--print-every", type=int, default=1, help="steps")
    parser.add_argument("--out", help="file for the weights")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
