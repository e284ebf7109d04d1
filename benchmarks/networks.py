"""Networks that torchvision has no name for."""

import sys
from pathlib import Path

from torch import nn
from torchvision.models import VisionTransformer

sys.path.insert(0, str(Path(__file__).parent.parent))


def vit_tiny() -> nn.Module:
    """ViT-Tiny with patches of 16 pixels, for 224 x 224."""
    return VisionTransformer(224, 16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768)


def resnet20() -> nn.Module:
    """The CIFAR-10 ResNet-20."""
    from tests.networks import CifarResNet20

    return CifarResNet20()
