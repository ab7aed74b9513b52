"""The small convolutional network of the demo and of tests."""

from __future__ import annotations

from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """Three convolutions with strides, for images of about 32 pixels.

    Parameters
    ----------
    num_classes : int
        C.
    width : int
        Channels of the first convolution.
    """

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

        self.features = nn.Sequential(*stage(3, width), *stage(width, 2 * width), *stage(2 * width, 4 * width))
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.head(self.features(images).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def logit_map(self, images: Tensor) -> Tensor:
        """Return logits (B, C, h, w) of each position, for label maps."""
        return nn.functional.conv2d(self.features(images), self.head.weight[:, :, None, None], self.head.bias)
