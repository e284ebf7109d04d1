"""Three small multi-label networks for the digit scenes, with their trained weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.data.scenes import NUM_CLASSES, SCENE_SIZE

_WIDTHS = (16, 32, 64, 96)
PATCH = 8  # pixels per token of the ViT
_WEIGHTS = Path(__file__).parent / "weights"


def _vgg_block(width_in: int, width: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for channels in (width_in, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
    return layers


class SceneVGG(nn.Module):
    """Is a small VGG: four blocks of two 3 x 3 convolutions with biases, max-pooling between, a spatial linear head.

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
    """Is a small ResNet: BatchNorm, residual sums and global average pooling; `layer1` ... `layer4` as
    torchvision's."""

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

    def features(self, x: Tensor) -> Tensor:
        """Returns what the classifier sees: `N x 96`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.projection((weights @ v).transpose(1, 2).flatten(2))


class _EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SceneViT(nn.Module):
    """Is a small ViT: a class token and 12 x 12 tokens of 8 x 8 pixels, five pre-norm blocks of attention and MLP.

    The patches are embedded by three convolutions of stride 2 (with BatchNorm and ReLU), not by one linear layer, which
    helps where there is little to learn from. The blocks are `blocks.0` ... `blocks.4`; the class token is token 0, and
    alone makes the score: the other tokens' outputs of the last block do not reach it.

    Args:
        width, depth, heads: channels of a token, number of blocks, attention heads of each.

    Raises:
        ValueError: for pictures that do not fit into a scene, or whose sides are no multiples of 8.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.data import SceneViT
        >>> model = SceneViT().eval()
        >>> model(torch.zeros(1, 3, 96, 96)).shape
        torch.Size([1, 10])
        >>> model(torch.zeros(1, 3, 48, 48), corner=(6, 0)).shape  # the lower left quarter of a scene
        torch.Size([1, 10])
    """

    input_size = (3, SCENE_SIZE, SCENE_SIZE)

    def __init__(self, width: int = 72, depth: int = 5, heads: int = 3) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        for width_in, width_out in pairwise((3, 24, 48, width)):
            stem += [nn.Conv2d(width_in, width_out, 3, 2, 1, bias=False), nn.BatchNorm2d(width_out), nn.ReLU()]
        self.patch_embedding = nn.Sequential(*stem)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, width, SCENE_SIZE // PATCH, SCENE_SIZE // PATCH))
        self.blocks = nn.Sequential(*[_EncoderBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor, corner: tuple[int, int] = (0, 0)) -> Tensor:
        """Returns the logits of scenes, or of smaller pictures (sides: multiples of 8) cut out at token `corner` of
        them."""
        (top, left), (height, width) = corner, (side // PATCH for side in x.shape[2:])
        if any(side % PATCH for side in x.shape[2:]) or max(top + height, left + width) > SCENE_SIZE // PATCH:
            raise InvalidValueError(
                f"x has shape {tuple(x.shape)} at corner {corner}; expected N x 3 x height x width, multiples of "
                f"{PATCH} within a scene's {SCENE_SIZE} x {SCENE_SIZE}"
            )
        embedded = self.patch_embedding(x)
        positions = self.positions[:, :, top : top + height, left : left + width]
        tokens = (embedded + positions).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.norm(self.blocks(tokens))[:, 0])


_ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {"vgg": SceneVGG, "resnet": SceneResNet, "vit": SceneViT}


def build_scene_model(name: str) -> nn.Module:
    """Returns the untrained network; `name` is `"vgg"`, `"resnet"` or `"vit"`."""
    if name not in _ARCHITECTURES:
        raise InvalidValueError(f"no scene model is called {name!r}; expected one of {sorted(_ARCHITECTURES)}")
    return _ARCHITECTURES[name]()


def load_scene_model(name: str = "resnet") -> nn.Module:
    """Returns a trained network for `DigitScenes`, in eval mode; its ten outputs are one logit per digit class.

    Args:
        name: `"vgg"` (max-pooling, no BatchNorm, biases that matter), `"resnet"` (BatchNorm, residual sums,
            global average pooling) or `"vit"` (tokens and attention; a class token makes the score).

    Example:
        >>> from captum_extract_aggregate.data import DigitScenes, load_scene_model
        >>> image, target = DigitScenes(n=1, seed=0)[0]
        >>> load_scene_model("vgg")(image[None]).shape
        torch.Size([1, 10])
    """
    model = build_scene_model(name)
    model.load_state_dict(load_weights(f"scene_{name}"))
    return model.eval()


def load_weights(name: str) -> dict[str, Tensor]:
    """Returns the embedded state dict of that name in single precision."""
    from safetensors.torch import load_file

    stored = load_file(_WEIGHTS / f"{name}.safetensors")
    return {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}


def save_scene_weights(model: nn.Module, name: str, folder: Path = _WEIGHTS) -> Path:
    """Stores a trained network in half precision, which loses no accuracy and halves the package."""
    return save_weights(model.state_dict(), f"scene_{name}", folder)


def save_weights(state: dict[str, Tensor], name: str, folder: Path = _WEIGHTS) -> Path:
    """Stores a state dict in half precision."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file({k: v.to(torch.float16).contiguous() if v.is_floating_point() else v for k, v in state.items()}, path)
    return path
