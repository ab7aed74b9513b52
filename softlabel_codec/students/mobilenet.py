"""MobileNetV2 (Sandler et al., 2018)."""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
"""Expansion, output channels, how often, stride of the first."""
DROPOUT = 0.2


def _layer(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [_layer(inputs, hidden, 1)] if expansion > 1 else []
        narrow = list(_layer(hidden, outputs, 1))[:-1]
        self.conv = nn.Sequential(*widen, _layer(hidden, hidden, 3, stride, groups=hidden), *narrow)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Return the features of the next block."""
        return features + self.conv(features) if self.shortcut else self.conv(features)  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """A mobile network; its layers are nested as torchvision's are, so that names of weights are the same.

    Parameters
    ----------
    num_classes : int
        C.
    small : bool
        Strides for images of about 32 to 64 pixels: the first two of the strides for ImageNet are left out.
    """

    def __init__(self, num_classes: int, small: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [_layer(3, 32, 3, 1 if small else 2)]
        inputs = 32
        for number, (expansion, outputs, repeats, stride) in enumerate(BLOCKS):
            for place in range(repeats):
                halved = place == 0 and not (small and number == 1)
                layers.append(InvertedResidual(inputs, outputs, expansion, stride if halved else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers, _layer(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self._last.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def logit_map(self, images: Tensor) -> Tensor:
        """Return logits (B, C, h, w) of each position, for label maps."""
        return nn.functional.conv2d(self.features(images), self._last.weight[:, :, None, None], self._last.bias)

    @property
    def _last(self) -> nn.Linear:
        return self.classifier[1]  # type: ignore[return-value]
