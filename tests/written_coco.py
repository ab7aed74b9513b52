"""A tiny folder as of COCO: coloured squares on noise, one category for each colour."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from shapes import COLORS

SIDE = 64


def write_coco(folder: Path, counts: dict[str, int]) -> None:
    """Write so many images of each split, with `annotations/instances_SPLIT.json`; category numbers have gaps, as COCO's have.

    The first image of each split has a crowd besides, and there is one image without boxes.
    """
    rng = np.random.default_rng(0)
    numbers = {name: 2 * number + 1 for number, name in enumerate(COLORS)}
    (folder / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        (folder / split).mkdir()
        images, boxes = [], []
        for number in range(count):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
            places = [] if number == count - 1 else [(half * SIDE // 2, rng.integers(SIDE // 2)) for half in range(2)]
            for left, top in places:
                side, name = int(rng.integers(24, 32)), rng.choice(list(COLORS))
                pixels[top : top + side, left : left + side] = COLORS[name]
                width, height = min(side, SIDE - left), min(side, SIDE - int(top))
                box = {"bbox": [int(left), int(top), width, height], "area": width * height, "iscrowd": 0}
                boxes.append({"id": len(boxes) + 1, "image_id": 10 + number, "category_id": numbers[name], **box})
            images.append({"id": 10 + number, "file_name": f"{number:012d}.jpg", "width": SIDE, "height": SIDE})
            Image.fromarray(pixels).save(folder / split / f"{number:012d}.jpg", quality=90)
        crowd = {"bbox": [0, 0, SIDE, SIDE], "area": SIDE**2, "iscrowd": 1, "segmentation": {"size": [SIDE, SIDE], "counts": [0, SIDE**2]}}
        boxes.append({"id": len(boxes) + 1, "image_id": 10, "category_id": 1, **crowd})
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        text = json.dumps({"images": images, "annotations": boxes, "categories": categories})
        (folder / "annotations" / f"instances_{split}.json").write_text(text)
