"""A self-supervised teacher, its vectors in a file, and a student that learns from them: everything, on one folder of images, in minutes.

    python examples/self_supervised.py photos/train photos/val out

trains a small teacher by SimCLR (Chen et al., 2020) without any class, stores its vectors for 10 crops of each image, trains a narrower
student on these, and prints what the features of the teacher, of the student and of an untrained student are worth: the accuracy of
their nearest neighbours among the training images, whose classes, the folders, are used for nothing else. `--seeds 3` does it three times.
"""

from __future__ import annotations

import argparse
import logging
import os
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from softlabel_codec.evaluate import Student, evaluate_frozen, load_student
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.trainer import TrainConfig, train

NAME, INPUT_SIZE, MEAN, STD = "SimCLR", 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
NUM_OUTPUTS, TEACHER_WIDTH, STUDENT_WIDTH = 64, 32, 16
WEIGHTS = "SIMCLR_WEIGHTS"  # variable of the environment that says where `teacher` finds its weights


class Encoder(nn.Module):
    """Four convolutions, their mean over the image, the features, and a linear layer whose outputs have length 1."""

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features, self.head = nn.Sequential(*layers), nn.Linear(8 * width, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return vectors (B, D) of images (B, 3, H, W)."""
        return functional.normalize(self.head(self.features(images).mean(dim=(2, 3))), dim=1)


def teacher() -> nn.Module:
    """Return the trained teacher, for `slcodec encode --teacher examples/self_supervised.py:teacher`."""
    network = Encoder(TEACHER_WIDTH, NUM_OUTPUTS)
    network.load_state_dict(torch.load(os.environ[WEIGHTS], weights_only=True))
    return network


def student(num_outputs: int) -> nn.Module:
    """Return a new student, for `slcodec train --student examples/self_supervised.py:student`."""
    return Encoder(STUDENT_WIDTH, num_outputs)


def pretrain(images: Tensor, epochs: int, batch_size: int, seed: int) -> nn.Module:
    """Return a teacher that has learnt to tell each image from all others, whatever its crop and colours."""
    torch.manual_seed(seed)
    network = Encoder(TEACHER_WIDTH, NUM_OUTPUTS)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    steps = max(1, len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(batch_size)[:steps]:
            vectors = network(augmented(images[batch].repeat(2, 1, 1, 1)))
            likeness = (vectors @ vectors.T / 0.2).fill_diagonal_(-torch.inf)
            loss = functional.cross_entropy(likeness, torch.arange(len(vectors)).roll(len(batch)))  # the other view of the same image
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    print(f"seed {seed}: teacher trained, loss {loss.item():.3f}", flush=True)
    return network


def read_images(folder: str) -> Tensor:
    """Return all images of a folder at twice the size of the network's, uint8 (n, 3, 64, 64)."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    images = (Image.open(path).convert("RGB").resize((2 * INPUT_SIZE, 2 * INPUT_SIZE)) for path in paths)
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def augmented(images: Tensor) -> Tensor:
    """Return a random crop of each image in random colours, normalised, float (B, 3, INPUT_SIZE, INPUT_SIZE); images are uint8."""
    count, share = len(images), torch.empty(len(images)).uniform_(0.25, 1).sqrt()
    where = torch.zeros(count, 2, 3)
    where[:, 0, 0], where[:, 1, 1] = share * (torch.rand(count) < 0.5).float().mul(2).sub(1), share
    where[:, :, 2] = (1 - share[:, None]) * torch.empty(count, 2).uniform_(-1, 1)
    grid = functional.affine_grid(where, [count, 3, INPUT_SIZE, INPUT_SIZE], align_corners=False)
    pixels = functional.grid_sample(images.float() / 255, grid, align_corners=False)
    grey = pixels.mean(dim=1, keepdim=True)
    saturation = torch.empty(count, 1, 1, 1).uniform_(0, 1.5) * (torch.rand(count, 1, 1, 1) < 0.8)
    contrast, tint = torch.empty(count, 1, 1, 1).uniform_(0.6, 1.4), torch.empty(count, 3, 1, 1).uniform_(-0.15, 0.15)
    return ((grey + (pixels - grey) * saturation) * contrast + tint - MEAN[0]) / STD[0]


def run(args: argparse.Namespace, images: Tensor, seed: int) -> dict[str, float]:
    """Do all of it once, and return accuracies in percent."""
    out = Path(args.out, f"seed-{seed}")
    out.mkdir(parents=True, exist_ok=True)
    network, labels = pretrain(images, args.epochs, args.batch_size, seed), out / "vectors.slc"
    os.environ[WEIGHTS] = str(out / "teacher.pt")
    torch.save(network.state_dict(), os.environ[WEIGHTS])
    codec = "dense:values=f16,content=features"
    encode(EncodeConfig(args.images, str(labels), f"{__file__}:teacher", codec, args.crops, teacher_output="features", overwrite=True))
    options = {"size": INPUT_SIZE, "val_crop": 1.0, "epochs": args.epochs, "batch_size": args.batch_size, "learning_rate": 2e-3}
    options |= {"teacher_temperature": args.teacher_temperature, "temperature": args.temperature, "optimizer": "adamw", "seed": seed}
    train(TrainConfig(args.images, str(labels), str(out / "student"), f"{__file__}:student", **options))
    torch.manual_seed(seed)
    prepared = {"size": INPUT_SIZE, "mean": MEAN, "std": STD, "crop": 1.0}
    students = {
        "teacher": Student(network, NUM_OUTPUTS, **prepared),
        "student": load_student(out / "student" / "weights.pt"),
        "untrained student": Student(student(NUM_OUTPUTS), NUM_OUTPUTS, **prepared),
    }
    return {name: 100 * evaluate_frozen(one, args.val, args.images, k=args.k, linear=False).knn for name, one in students.items()}


def main() -> None:
    """Run with each seed, and print mean and standard deviation."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    images = read_images(args.images)
    found = [run(args, images, seed) for seed in range(args.seeds)]
    for name in found[0]:
        values = [one[name] for one in found]
        spread = f" +- {stdev(values):.2f}" if len(values) > 1 else ""
        print(f"{name:<18} k-NN top-1 {mean(values):.2f}{spread} %  ({', '.join(f'{value:.2f}' for value in values)})")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="training images, CLASS/NAME")
    parser.add_argument("val", help="test images, CLASS/NAME")
    parser.add_argument("out", help="folder of the results, which must be new")
    defaults = {"seeds": 3, "epochs": 12, "crops": 10, "batch-size": 64, "k": 20, "teacher-temperature": 0.1, "temperature": 0.1}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
