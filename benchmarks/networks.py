"""Networks that torchvision has no name for."""

from torch import nn
from torchvision.models import VisionTransformer


def vit_tiny() -> nn.Module:
    """ViT-Tiny with patches of 16 pixels, for 224 x 224."""
    return VisionTransformer(224, 16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768)
