"""Two small multi-label networks for the digit scenes, with their trained weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_extract_aggregate.data.scenes import NUM_CLASSES, SCENE_SIZE

_WIDTHS = (16, 32, 64, 96)
_WEIGHTS = Path(__file__).parent / "weights"


def _vgg_block(width_in: int, width: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for channels in (width_in, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
    return layers


class SceneVGG(nn.Module):
    """VGG in small: four blocks of two 3 x 3 convolutions with biases, max-pooling between, a spatial linear head.

    The ends of the blocks are `features.3`, `.8`, `.13` and `.18` (96, 48, 24 and 12 pixels wide on a scene).
    """

    input_size = (3, SCENE_SIZE, SCENE_SIZE)

    def __init__(self) -> None:
        super().__init__()
        layers = _vgg_block(3, _WIDTHS[0])
        for width_in, width in pairwise(_WIDTHS):
            layers += [nn.MaxPool2d(2), *_vgg_block(width_in, width)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveMaxPool2d(3)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(9 * _WIDTHS[-1], 96), nn.ReLU(inplace=True), nn.Linear(96, NUM_CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)))


class _ResidualBlock(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or width_in != width:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.relu(out)


class SceneResNet(nn.Module):
    """ResNet in small: BatchNorm, residual sums and global average pooling; `layer1` ... `layer4` as torchvision's."""

    input_size = (3, SCENE_SIZE, SCENE_SIZE)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _ResidualBlock(_WIDTHS[0], _WIDTHS[0], 1)
        self.layer2 = _ResidualBlock(_WIDTHS[0], _WIDTHS[1], 2)
        self.layer3 = _ResidualBlock(_WIDTHS[1], _WIDTHS[2], 2)
        self.layer4 = _ResidualBlock(_WIDTHS[2], _WIDTHS[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(_WIDTHS[3], NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


_ARCHITECTURES = {"vgg": SceneVGG, "resnet": SceneResNet}


def build_scene_model(name: str) -> nn.Module:
    """The untrained network; `name` is `"vgg"` or `"resnet"`."""
    if name not in _ARCHITECTURES:
        raise ValueError(f"no scene model is called {name!r}; expected one of {sorted(_ARCHITECTURES)}")
    return _ARCHITECTURES[name]()


def load_scene_model(name: str = "resnet") -> nn.Module:
    """A trained network for `DigitScenes`, in eval mode; its ten outputs are one logit per digit class.

    Args:
        name: `"vgg"` (max-pooling, no BatchNorm, biases that matter) or `"resnet"` (BatchNorm, residual sums,
            global average pooling).

    Example:
        >>> from captum_extract_aggregate.data import DigitScenes, load_scene_model
        >>> image, target = DigitScenes(n=1, seed=0)[0]
        >>> load_scene_model("vgg")(image[None]).shape
        torch.Size([1, 10])
    """
    from safetensors.torch import load_file

    model = build_scene_model(name)
    stored = load_file(_WEIGHTS / f"scene_{name}.safetensors")
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in stored.items()})
    return model.eval()


def save_scene_weights(model: nn.Module, name: str, folder: Path = _WEIGHTS) -> Path:
    """Stores a trained network in half precision, which loses no accuracy and halves the package."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"scene_{name}.safetensors"
    state = model.state_dict()
    save_file({k: v.to(torch.float16).contiguous() if v.is_floating_point() else v for k, v in state.items()}, path)
    return path
