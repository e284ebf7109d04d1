"""Networks that torchvision has no name for, or whose scores are explained elsewhere than they come out."""

import sys
from pathlib import Path

from torch import nn
from torchvision.models import VisionTransformer, mobilenet_v2, squeezenet1_1

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.coco_imagenet import of_coco


def vit_tiny() -> nn.Module:
    """ViT-Tiny with patches of 16 pixels, for 224 x 224."""
    return VisionTransformer(224, 16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768)


def resnet20() -> nn.Module:
    """The CIFAR-10 ResNet-20."""
    from tests.networks import CifarResNet20

    return CifarResNet20()


def squeezenet() -> nn.Module:
    """SqueezeNet without the ReLU behind its last convolution, so that the logit in front of it is explained.

    Behind that ReLU, every class has spatial gates of its own, and the gradients of different classes differ by where
    they are cut off, whatever the method.
    """
    network = squeezenet1_1()
    network.classifier[2] = nn.Identity()
    return network


def lite0() -> nn.Module:
    """EfficientNet-Lite0 of timm."""
    import timm

    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    return network


def lite0_coco() -> nn.Module:
    """EfficientNet-Lite0 as a network of COCO's classes."""
    return of_coco(lite0)


def squeezenet_coco() -> nn.Module:
    """SqueezeNet, without its last ReLU, as a network of COCO's classes."""
    return of_coco(squeezenet)


def mobilenet_coco() -> nn.Module:
    """MobileNetV2 as a network of COCO's classes."""
    return of_coco(mobilenet_v2)


def vit_tiny_coco() -> nn.Module:
    """ViT-Tiny as a network of COCO's classes."""
    return of_coco(vit_tiny)
