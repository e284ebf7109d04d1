"""Networks for which the decomposition is exact."""

import torch
import torchvision

import captum_extract_aggregate as cea
from tests.networks import CifarResNet20, lively, vgg11

NETWORKS = {
    "vgg11": (vgg11, 64),
    "vgg11_bn": (lambda: vgg11(batch_norm=True), 64),
    "resnet18": (torchvision.models.resnet18, 64),
    "resnet50": (torchvision.models.resnet50, 64),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, 96),
    "cifar_resnet20": (CifarResNet20, 32),
    "scene_vgg": (lambda: cea.load_scene_model("vgg"), 96),
    "scene_resnet": (lambda: cea.load_scene_model("resnet"), 96),
}


def build(name):
    """Makes a network by name; returns it with the side of its pictures."""
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    net = make()
    return (net if name.startswith("scene") else lively(net)), side
