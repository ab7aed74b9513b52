"""Draw what students look at: class activation maps of convolutional networks, attention maps of vision transformers, as one picture.

    python examples/attention.py plain/weights.pt cat.jpg dog.jpg --beside stored/weights.pt --out attention.png

A row for each image: what the first student sees of it, and a map for each student on the image in grey, with the class that it sees and
the probability. Where the folder of an image is one of the student's classes, a mark says whether that is the class it sees.
Maps of convolutional networks are Grad-CAM (Selvaraju et al., 2017) of that class at the last features, which is the class activation
map where these are averaged; those of transformers are attention rollout (Abnar and Zuidema, 2020), which knows no class. Each map is
scaled to its own smallest and largest value: colours tell places apart, not students. With --target, all look for the same class.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor, nn

from softlabel_codec.evaluate import Student, load_student
from softlabel_codec.torch import normalize


def main() -> None:
    """Draw the picture."""
    args = parse()
    paths = [args.weights, *args.beside]
    lookers = [Looker(load_student(path)) for path in paths]
    names = [path.parent.name for path in paths]
    if len({*names, ""}) <= len(names):
        names = [str(path) for path in paths]
    rows, columns = len(args.images), 1 + len(lookers)
    class_names = args.class_names.read_text(encoding="utf-8").splitlines() if args.class_names else []
    figure = Figure((2.4 * columns, 2.6 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis, name in zip(grid[0, 1:], names, strict=True):
        axis.set_title(name, fontsize=10, fontweight="bold")
    for row, path in zip(grid, args.images, strict=True):
        image = Image.open(path)
        row[0].imshow(seen(image, lookers[0].student))
        row[0].set_xlabel(path.name, fontsize=9)
        for axis, looker in zip(row[1:], lookers, strict=True):
            crop = seen(image, looker.student)
            heat, number, prob = looker.look(crop, args.target)
            smooth = np.asarray(Image.fromarray(heat.numpy()).resize((360, 360), Image.Resampling.BICUBIC)).clip(0, 1)
            axis.imshow(ImageOps.grayscale(crop), cmap="gray", vmin=0, vmax=255, extent=(0, 1, 0, 1))
            axis.imshow(smooth, cmap="inferno", alpha=0.8 * smooth, vmin=0, vmax=1, extent=(0, 1, 0, 1))
            name = next(iter(class_names[number : number + 1]), "") or looker.name(number)
            axis.set_xlabel(f"{name}, {prob:.0%}{looker.mark(number, path)}", fontsize=9)
    for axis in grid.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.savefig(args.out, format="png", dpi=150)
    print(f"{args.out}: {rows} images, {len(lookers)} students")


def seen(image: Image.Image, student: Student) -> Image.Image:
    """Return what a student sees of an image: the middle, scaled to its size."""
    image = (ImageOps.exif_transpose(image) if student.exif_orientation == "applied" else image).convert("RGB")
    side = min(image.size) * student.crop
    left, top = (image.width - side) / 2, (image.height - side) / 2
    how = Image.Resampling[student.interpolation.upper()]
    return image.resize((student.size, student.size), how, (left, top, left + side, top + side))


class Looker:
    """A student whose features and attention are recorded in each forward pass."""

    def __init__(self, student: Student) -> None:
        self.student, self.model = student, student.model.eval()
        self.features: list[Tensor] = []  # (1, D, h, w) each
        self.attention: list[Tensor] = []  # (1, heads, N, N) each
        for module in self.model.modules():
            if isinstance(module, nn.MultiheadAttention):  # of torchvision
                weights = {"need_weights": True, "average_attn_weights": False}
                module.register_forward_pre_hook(lambda _, inputs, how, weights=weights: (inputs, {**how, **weights}), with_kwargs=True)
                module.register_forward_hook(lambda _, inputs, outputs: self.attention.append(outputs[1]))
            elif hasattr(module, "attn_drop"):  # of timm
                module.fused_attn = False
                module.attn_drop.register_forward_pre_hook(lambda _, inputs: self.attention.append(inputs[0]))
            elif not [*module.children()]:
                module.register_forward_hook(lambda _, inputs, outputs: self._keep(outputs))

    def _keep(self, outputs: Any) -> None:
        if isinstance(outputs, Tensor) and outputs.ndim == 4 and outputs.shape[2] * outputs.shape[3] > 1:
            self.features.append(outputs)

    def name(self, number: int) -> str:
        """Return the folder of a class, or its number."""
        return next(iter(self.student.folders[number : number + 1]), "") or str(number)

    def mark(self, number: int, path: Path) -> str:
        """Return whether a class is the folder of an image, as a mark; nothing if that is none of the classes."""
        known = path.absolute().parent.name in self.student.folders
        return "" if not known else " \u2713" if self.name(number) == path.absolute().parent.name else " \u2717"

    def look(self, crop: Image.Image, target: int | None) -> tuple[Tensor, int, float]:
        """Return the map (h, w) from 0 to 1, the class that is looked for, and its probability."""
        self.features.clear()
        self.attention.clear()
        pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None]
        (logits,) = self.model(normalize(pixels, self.student.mean, self.student.std).requires_grad_())  # weights may be frozen
        number = int(logits.argmax()) if target is None else target
        if not 0 <= number < len(logits):
            raise SystemExit(f"--target: expected a class below {len(logits)}, got {number}")
        heat = self._rollout() if self.attention else self._grad_cam(logits[number])
        heat = heat.detach() - heat.min().detach()
        return heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny), number, float(logits.softmax(0)[number].detach())

    def _grad_cam(self, logit: Tensor) -> Tensor:
        if not self.features:
            raise SystemExit("expected a network with features (1, D, h, w), or with attention between places, got neither")
        (gradient,) = torch.autograd.grad(logit, self.features[-1])
        return (gradient.mean((2, 3), keepdim=True) * self.features[-1]).sum(1)[0].relu()

    def _rollout(self) -> Tensor:
        count = self.attention[0].shape[-1]
        if {(len(one), *one.shape[2:]) for one in self.attention} != {(1, count, count)}:
            raise SystemExit("expected attention between all places, as in ViT and DeiT, got attention in windows, or of another kind")
        rollout = torch.eye(count)
        for one in self.attention:
            rollout = (one[0].mean(0) + torch.eye(count)) / 2 @ rollout
        side = math.isqrt(count)  # the other tokens come first: that of the class, and the like
        of_class = count > side**2 and getattr(self.model, "global_pool", "token") == "token"
        row = rollout[0] if of_class else rollout[-(side**2) :].mean(0)
        return row[-(side**2) :].reshape(side, side)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="weights.pt of a run of slcodec train, with weights.json beside it")
    parser.add_argument("images", type=Path, nargs="+", help="images")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], help="weights of other students, likewise")
    parser.add_argument("--target", type=int, help="number of the class to look for (default: what each student sees)")
    parser.add_argument("--class-names", type=Path, help="text file with the name of each class, one a line")
    parser.add_argument("--out", type=Path, default=Path("attention.png"), help="the picture, PNG")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
