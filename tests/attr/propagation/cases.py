"""Networks and methods that several tests of propagation share."""

import itertools
import math

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from tests.networks import CifarResNet20, lively, vgg11
from tests.reference.propagation import Step

TARGET = 2


class Steps(nn.Module):
    """The network that a list of the reference's steps describes, with functional ReLUs and sums."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        with_parts = [s for s in steps if s.kind not in ("relu", "flatten") and s.module is not None]
        self.named = nn.ModuleDict({step.output: step.module for step in with_parts})

    def forward(self, x):
        values = {"x": x}
        for step in self.steps:
            inputs = [values[name] for name in step.inputs]
            if step.kind == "add":
                values[step.output] = inputs[0] + inputs[1]
            elif step.kind == "relu":
                values[step.output] = torch.relu(inputs[0])
            elif step.kind == "relu6":
                values[step.output] = F.relu6(inputs[0])
            elif step.kind == "cat":
                values[step.output] = torch.cat(inputs, 1)
            elif step.kind == "flatten":
                values[step.output] = inputs[0].flatten(1)
            else:
                values[step.output] = step.module(inputs[0])
        return values[step.output]


def batch_norm(channels):
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.bias)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    norm.weight.data[0] *= -1
    return norm


def plain():
    modules = [
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.ReLU(),
        nn.MaxPool2d(3, stride=1, padding=1), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 5),
    ]  # fmt: skip
    kinds = ["linear", "relu", "max_pool", "linear", "relu", "max_pool", "flatten", "linear", "relu", "linear"]
    names = ["x", *(f"v{n}" for n in range(len(kinds)))]
    pairs = zip(kinds, itertools.pairwise(names), modules)
    return [Step(kind, (before,), after, module) for kind, (before, after), module in pairs]


def residual():
    return [
        Step("linear", ("x",), "c1", nn.Conv2d(3, 4, 3, padding=1, bias=False)),
        Step("batch_norm", ("c1",), "b1", batch_norm(4)),
        Step("relu", ("b1",), "r1"),
        Step("linear", ("r1",), "c2", nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        Step("batch_norm", ("c2",), "b2", batch_norm(4)),
        Step("add", ("b2", "r1"), "sum"),
        Step("batch_norm", ("sum",), "b3", batch_norm(4)),  # stands alone: it follows a sum
        Step("relu6", ("b3",), "r3"),
        Step("avg_pool", ("r3",), "p1", nn.AvgPool2d(3, stride=2, padding=1)),
        Step("linear", ("p1",), "t1", nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)),
        Step("batch_norm", ("t1",), "b4", batch_norm(6)),
        Step("relu", ("b4",), "r4"),
        Step("cat", ("r4", "r3"), "cat"),
        Step("avg_pool", ("cat",), "p2", nn.AdaptiveAvgPool2d((2, 3))),
        Step("flatten", ("p2",), "flat"),
        Step("linear", ("flat",), "logits", nn.Linear(60, 5)),
    ]


NETWORKS = {
    "vgg11": vgg11,
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(num_classes=10),
    "googlenet": lambda: torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=False),
    "densenet121": lambda: torchvision.models.densenet121(num_classes=10),
    "shufflenet_v2": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
    "mnasnet": lambda: torchvision.models.mnasnet0_5(num_classes=10),
    "convnext": lambda: torchvision.models.convnext_tiny(num_classes=10),
    "scene vgg": lambda: cea.load_scene_model("vgg"),
    "scene resnet": lambda: cea.load_scene_model("resnet"),
    "cifar resnet20": CifarResNet20,
}


def network(name):
    torch.manual_seed(0)
    net = NETWORKS[name]()
    return (net if "scene" in name else lively(net)).double().eval()


def pictures(net, n=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, 48, 48, generator=generator, dtype=torch.float64)


METHODS = {
    "guided": cea.GuidedBackprop,
    "deconvolution": cea.Deconvolution,
    "rectgrad": lambda *args: cea.RectGrad(*args, percentile=80),
    "rectgrad mod": lambda *args: cea.RectGradMod(*args, percentile=80),
    "lrp 0": cea.LRP,
    "lrp": lambda *args: cea.LRP(*args, gamma=0.25),
    "lrp infinity": lambda *args: cea.LRP(*args, gamma=math.inf),
    "excitation": cea.ExcitationBackprop,
    "contrastive": cea.ContrastiveExcitationBackprop,
}


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        y = F.relu(self.conv(x))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(y.mean((2, 3)))


def made(body):
    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(body(self.conv(x)).mean((2, 3)))

    return Made().eval()


class Variant(nn.Module):
    """A network with one part to exchange; `part(net, y)` keeps the shape."""

    def __init__(self, part):
        super().__init__()
        torch.manual_seed(0)
        self.part = part
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.part(self, self.conv1(x)).mean((2, 3)))
