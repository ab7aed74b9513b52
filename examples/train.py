"""Train a network of your own from stored labels, on one device: a script to copy from. It uses the public API only.

    python examples/train.py labels.slc photos/train --val photos/val --network my_network.py:build --epochs 90

A network is a function in a file that takes the number of classes and returns a module. An epoch takes each image once, with
`--crops-per-image` crops of it. After each epoch the accuracy on the validation images is printed, and a checkpoint is written, from
which the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from softlabel_codec import SoftLabelReader
from softlabel_codec.torch import SoftLabelDataset, SoftLabelSampler, collate_crops, normalize, soft_cross_entropy


def main() -> None:
    """Train, evaluate and keep a checkpoint after each epoch."""
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    with SoftLabelReader(options.labels) as reader:
        num_classes, temperature = reader.num_classes, reader.temperature
        folders = sorted({key.partition("/")[0] for key in reader.keys})
        run = {**vars(options), "labels": reader.fingerprint}
    dataset = SoftLabelDataset(
        options.images, options.labels, crops_per_image=options.crops_per_image, size=options.size, seed=options.seed, normalized=False
    )
    mean, std = dataset.mean, dataset.std  # those of the teacher, in validation too
    sampler = SoftLabelSampler(dataset, seed=options.seed)
    loader = DataLoader(
        dataset, options.batch_size // options.crops_per_image, sampler=sampler, collate_fn=collate_crops, num_workers=options.workers
    )
    found = ValidationImages(options.val, options.size)
    if not found.images or [folder.name for folder in found.folders] != folders or len(folders) != num_classes:
        raise SystemExit(f"{options.val}: expected images of the {num_classes} classes in folders named as those of the labelled images")
    val = DataLoader(found, batch_size=256, num_workers=options.workers)

    model = load_network(options.network, num_classes).to(device)
    optimizer = torch.optim.SGD(model.parameters(), options.learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=options.epochs * len(loader))
    kept = {"model": model, "optimizer": optimizer, "schedule": schedule}
    for epoch in range(resume(options.checkpoint, kept, run), options.epochs):
        sampler.set_epoch(epoch)
        model.train()
        for crops, labels in loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(normalize(crops.to(device), mean, std))
            loss = temperature**2 * soft_cross_entropy(logits.float() / temperature, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}, top-1 {accuracy(model, val, device, mean, std):.2%}", flush=True)
        save(options.checkpoint, epoch + 1, kept, run)


class ValidationImages(Dataset[tuple[Tensor, int]]):
    """The central 7/8 of each image of a folder CLASS/NAME, uint8 (3, size, size), and its class: folders are numbered as they ascend."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folders = sorted(path for path in folder.iterdir() if path.is_dir())
        self.images = [(path, number) for number, found in enumerate(self.folders) for path in sorted(found.iterdir())]
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        path, number = self.images[place]
        image = Image.open(path).convert("RGB")
        side = round(min(image.size) * 7 / 8)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        crop = image.resize((self.size, self.size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        return torch.from_numpy(np.array(crop)).permute(2, 0, 1), number


@torch.inference_mode()
def accuracy(model: nn.Module, val: DataLoader[tuple[Tensor, int]], device: torch.device, mean: tuple, std: tuple) -> float:
    """Return the share of images whose largest logit is that of their class."""
    model.eval()
    right = sum(int((model(normalize(crops.to(device), mean, std)).argmax(1).cpu() == classes).sum()) for crops, classes in val)
    return right / len(val.dataset)


def load_network(name: str, num_classes: int) -> nn.Module:
    """Return the network that FILE.py:FUNCTION makes."""
    path, _, function = name.rpartition(":")
    spec = importlib.util.spec_from_file_location("network", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)(num_classes)


def save(path: Path, epoch: int, kept: dict, run: dict) -> None:
    """Write a checkpoint, in place of the last one when it is complete."""
    unfinished = path.with_name(path.name + ".partial")
    torch.save({"epoch": epoch, "run": str(run), **{name: part.state_dict() for name, part in kept.items()}}, unfinished)
    unfinished.replace(path)


def resume(path: Path, kept: dict, run: dict) -> int:
    """Load a checkpoint if there is one, of the same run, and return the epoch to go on with."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["run"] != str(run):
        raise SystemExit(f"{path}: is of a run with other labels or options. Name another file with --checkpoint")
    for name, part in kept.items():
        part.load_state_dict(state[name])
    return state["epoch"]


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="label file, FILE.slc")
    parser.add_argument("images", type=Path, help="folder of training images")
    parser.add_argument("--val", type=Path, required=True, help="folder of validation images, CLASS/NAME")
    parser.add_argument("--network", required=True, help="FILE.py:FUNCTION")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch-size", type=int, default=256, help="crops per step")
    parser.add_argument("--crops-per-image", type=int, default=4)
    parser.add_argument("--size", type=int, default=224, help="side of a crop in pixels")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="its peak")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"))
    options = parser.parse_args()
    if options.batch_size % options.crops_per_image:
        parser.error(f"--batch-size: expected a multiple of --crops-per-image {options.crops_per_image}")
    return options


if __name__ == "__main__":
    main()
