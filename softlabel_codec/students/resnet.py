"""Residual networks (He et al., 2016), with torchvision's parameter names, so that weights can be exchanged."""

from __future__ import annotations

from torch import Tensor, nn

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(self.bn2.weight)  # each block begins as the identity

    def forward(self, features: Tensor) -> Tensor:
        """Return the features of the next block."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A wide convolution between two narrow ones, and a shortcut; the stride is in the wide one."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = _convolution(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _convolution(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(self.bn3.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features of the next block."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A residual network.

    Parameters
    ----------
    depth : int
        18, 34, 50 or 101.
    num_classes : int
        C.
    small : bool
        A stem for images of about 32 to 64 pixels: one 3 x 3 convolution, and no pooling.
    width : int
        Channels of the first stage.
    """

    def __init__(self, depth: int, num_classes: int, small: bool = False, width: int = 64) -> None:
        super().__init__()
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = _convolution(3, width, 3) if small else _convolution(3, width, 7, 2)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        inputs = width
        for number, blocks in enumerate(STAGES[depth]):
            stage = []
            for place in range(blocks):
                stage.append(block(inputs, width << number, 2 if number and not place else 1))
                inputs = (width << number) * block.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.fc(self.features(images).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, D, h, w) before they are averaged."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for number in range(4):
            features = self.get_submodule(f"layer{number + 1}")(features)
        return features  # type: ignore[no-any-return]

    def logit_map(self, images: Tensor) -> Tensor:
        """Return logits (B, C, h, w) of each position, for label maps; their mean is the result of `forward`."""
        return nn.functional.conv2d(self.features(images), self.fc.weight[:, :, None, None], self.fc.bias)
