"""Train a network from stored soft labels with Lightning: a data module, a module, and its trainer.

    python examples/lightning_module.py photos/train labels.slc --model resnet50

`examples/plain/lightning_module.py` is the same with the classes of images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import models

from softlabel_codec.torch import SoftCrossEntropy, SoftLabelDataset, SoftLabelSampler, collate_crops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photographs(lightning.LightningDataModule):
    """Batches of random crops."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.args = args

    def train_dataloader(self) -> DataLoader:
        args = self.args
        dataset = SoftLabelDataset(args.images, args.labels, size=args.size, mean=MEAN, std=STD)
        images_per_batch, sampler = dataset.images_per_batch(args.batch_size), SoftLabelSampler(dataset)
        return DataLoader(dataset, images_per_batch, sampler=sampler, num_workers=args.workers, collate_fn=collate_crops)


class Classifier(lightning.LightningModule):
    """A network, its loss and its optimizer."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.args = args
        self.model = models.get_model(args.model, num_classes=args.classes)
        self.criterion = SoftCrossEntropy()

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        images, labels = batch
        loss = self.criterion(self.model(images), labels)
        self.log("loss", loss, batch_size=len(images))
        self.print(f"epoch {self.current_epoch} step {step} loss {loss.item():.6f}")
        return loss

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), self.args.lr, momentum=0.9, weight_decay=1e-4)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.args.epochs)}


def main() -> None:
    """Train."""
    args = parse()
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        limit_train_batches=args.steps,
        devices=args.devices,
        use_distributed_sampler=True,
        logger=False,
        enable_checkpointing=args.out is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=args.out,
    )
    trainer.fit(Classifier(args), datamodule=Photographs(args))


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
    parser.add_argument("--batch-size", type=int, default=256, help="crops per step and device")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", help="folder for checkpoints")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
