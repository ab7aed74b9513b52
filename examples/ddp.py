"""Train a network from stored soft labels in several processes with DistributedDataParallel, started by torchrun.

    torchrun --nproc-per-node 8 examples/ddp.py photos/train labels.slc --model resnet50

`examples/plain/ddp.py` is the same with the classes of images.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from itertools import islice

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torchvision import models

from softlabel_codec.torch import SoftCrossEntropy, SoftLabelDataset, SoftLabelSampler, collate_crops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Train for some epochs, and keep the weights."""
    args = parse()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    loader = make_loader(args)
    network = models.get_model(args.model, num_classes=args.classes).to(device)
    model = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    criterion = SoftCrossEntropy()
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    for epoch in range(args.epochs):
        loader.sampler.set_epoch(epoch)
        model.train()
        for step, (images, labels) in enumerate(islice(loader, args.steps)):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = loss.detach() / distributed.get_world_size()
            distributed.all_reduce(mean)
            if distributed.get_rank() == 0:
                print(f"epoch {epoch} step {step} loss {mean.item():.6f}", flush=True)
        schedule.step()
        if args.out and distributed.get_rank() == 0:
            torch.save(network.state_dict(), args.out)
    distributed.destroy_process_group()


def make_loader(args: argparse.Namespace) -> DataLoader:
    """Return this process's batches of random crops."""
    dataset = SoftLabelDataset(args.images, args.labels, size=args.size, mean=MEAN, std=STD)
    images_per_batch, sampler = dataset.images_per_batch(args.batch_size), SoftLabelSampler(dataset)
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
