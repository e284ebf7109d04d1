"""A layer's map is the same alone and in any company, made of the total derivative by what the layer gives out."""

import functools
import random

import pytest
import timm
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.taps import Place
from tests.reference.total_derivative import differentiable_layers, total_derivatives


def conv(channels=4, stride=1):
    return nn.Conv2d(4, channels, 3, stride, 1)


class Graph(nn.Module):
    """A picture in, three scores out."""

    def __init__(self, **parts):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        for name, part in parts.items():
            self.add_module(name, part)
        self.head = nn.Linear(4, 3)

    def scores(self, t):
        return self.head(t.tanh().mean((2, 3)))


class Part(nn.Module):
    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def pyramid(s, x):
    p = s.a(x)
    q = s.b(p)
    return [p, q, s.c(q)]


class Pyramid(Graph):
    def __init__(self):
        super().__init__(p=Part(pyramid, a=conv(stride=2), b=conv(stride=2), c=conv(stride=2)))

    def forward(self, x):
        return sum(map(self.scores, self.p(self.stem(x))))


class ReturnsItsInputToo(Graph):
    def __init__(self):
        super().__init__(p=Part(lambda s, x: (x, s.a(x)), a=conv()))

    def forward(self, x):
        x = self.stem(x)
        first, second = self.p(x)
        return self.scores(first + x) + self.scores(second)


class Skip(Graph):
    """Modules that give out the very tensor that they were given."""

    def __init__(self):
        super().__init__(d=nn.Dropout(), i=nn.Identity(), e=nn.Sequential(), b=conv())

    def forward(self, x):
        a = self.stem(x)
        return self.scores(self.b(self.e(self.i(self.d(a)))) + a)


class UsedEarlier(Graph):
    """The skip branches off before the layer runs, so nothing of it is met after the layer."""

    def __init__(self):
        super().__init__(i=nn.Identity(), k=Part(lambda s, *, x: x), a=conv(), b=conv())

    def forward(self, x):
        x = self.stem(x)
        early = self.a(x)
        return self.scores(self.b(self.k(x=self.i(x))) + early)


class Stash(Graph):
    """A block whose output is used inside of it by something that leaves it another way."""

    def __init__(self):
        super().__init__(block=Part(self._block, a=conv(), side=conv()))
        self.kept = []

    def _block(self, s, x):
        h = s.a(x)
        self.kept.append(s.side(h))
        return h

    def forward(self, x):
        self.kept.clear()
        h = self.block(self.stem(x))
        return self.scores(h) + self.scores(self.kept.pop())


class Encoder(Graph):
    """A U-Net's way down: what skips is appended to a list."""

    def __init__(self):
        down = {
            f"down{i}": Part(lambda s, x, skips: (skips.append(s.a(x)), s.pool(skips[-1]))[1], a=conv(), pool=pool)
            for i, pool in enumerate((nn.MaxPool2d(2), nn.AvgPool2d(2)))
        }
        super().__init__(**down, up0=nn.Upsample(scale_factor=2), up1=nn.Upsample(scale_factor=2))

    def forward(self, x):
        skips = []
        x = self.down1(self.down0(self.stem(x), skips), skips)
        x = self.up0(x) + skips.pop()
        return self.scores(self.up1(x) + skips.pop())


class InPlaceOnAliases(Graph):
    """What works in place on one name of a tensor is seen by the other names."""

    def __init__(self):
        super().__init__(i=nn.Identity(), d=nn.Dropout(inplace=True), relu=nn.ReLU(inplace=True), b=conv())

    def forward(self, x):
        a = self.stem(x)
        z = self.d(self.i(a))
        z += 1
        self.relu(a)  # whose result is not looked at
        return self.scores(self.b(z) * a)


class ViewsInPlace(Graph):
    def __init__(self):
        super().__init__(flat=nn.Flatten(2), tokens=nn.Linear(64, 64), relu=nn.ReLU(inplace=True))

    def forward(self, x):
        a = self.stem(x)
        b = self.relu(self.tokens(self.flat(a)))
        return self.scores(a * b.view_as(a))


class HookedFeatures(Graph):
    """Features collected by the model's own hooks, as extractors do."""

    def __init__(self):
        super().__init__(a=conv(), b=conv(), norm=nn.BatchNorm2d(4))
        self.kept = {}
        for name in "ab":
            self.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: self.kept.update({name: o}))

    def forward(self, x):
        last = self.norm(self.b(self.a(self.stem(x))))
        kept, self.kept = dict(self.kept), {}
        return self.scores(last) + sum(self.scores(t.square()) for t in kept.values())


class Twice(Graph):
    """The same tensor given out twice."""

    def __init__(self):
        super().__init__(p=Part(lambda s, x: [s.a(x)] * 2, a=conv()), b=conv())

    def forward(self, x):
        first, second = self.p(self.stem(x))
        return self.scores(self.b(first) + second)


class Branches(Graph):
    def __init__(self):
        super().__init__(a=conv(), b=conv(), i=nn.Identity(), c=conv())

    def forward(self, x):
        x = self.stem(x)
        return self.scores(self.c(self.i(torch.relu_(self.a(x) + x)) - self.b(x)) + x)


GRAPHS = [
    Pyramid,
    ReturnsItsInputToo,
    Skip,
    UsedEarlier,
    Stash,
    Encoder,
    InPlaceOnAliases,
    ViewsInPlace,
    HookedFeatures,
    Twice,
    Branches,
]


class Sum(nn.Module):
    """Scores from all maps of a feature extractor."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, x):
        maps = self.features(x)
        maps = maps.values() if isinstance(maps, dict) else maps
        return torch.stack([t.mean((1, 2, 3)) * t.square().mean((1, 2, 3)) for t in maps]).sum(0)


def vit():
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)


NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=5),
    "vgg": lambda: nn.Sequential(
        torchvision.models.vgg.make_layers([8, "M", 8, "M", 8]), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5),
    "densenet, checkpointed": lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5, memory_efficient=True),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=5),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.1),
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=5, width_mult=0.25),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1)),
    "vit": vit,
    "swin": lambda: torchvision.models.SwinTransformer([2, 2], 12, [1, 2], [2, 2], [2, 2], num_classes=5),
    "resnet features": lambda: Sum(timm.create_model("resnet10t", features_only=True)),
    "mobilenet features": lambda: Sum(timm.create_model("mobilenetv3_small_050", features_only=True)),
    "pyramid": lambda: Sum(
        torchvision.models.detection.backbone_utils.BackboneWithFPN(
            torchvision.models.resnet18(), {"layer1": "a", "layer2": "b"}, [64, 128], 16
        )
    ),
}


def check(model, x, seed, most=5):
    """A random list of layers, and each of them alone, against the total derivatives."""
    layers = differentiable_layers(model, x)
    chosen = random.Random(seed)
    some = chosen.sample(layers, min(len(layers), chosen.randint(2, most)))
    expected = dict(zip(some, total_derivatives(model, x, some)))
    target = None if model(x).ndim == 1 else 1
    companies = [some, *([layer] for layer in some), some]  # before and after passes have found out about layers
    for company in companies if seed % 2 else companies[1:]:
        places = [Place(layer, call=-1) for layer in company]
        evidence = next(record(model, x, places).evidence([target]))
        for place in places:
            found = zip(evidence.activations[place], evidence.gradients[place], expected[place.layer])
            for value, gradient, (its_value, its_gradient) in found:
                torch.testing.assert_close(value, its_value, rtol=1e-9, atol=1e-12)
                torch.testing.assert_close(gradient, its_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("seed", range(4))
def test_hand_made_graphs(graph, seed):
    torch.manual_seed(seed)
    check(graph().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64), seed, most=9)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks(network):
    torch.manual_seed(0)
    model = NETWORKS[network]().double().eval()
    check(model, torch.randn(2, 3, 32, 32, dtype=torch.float64), seed=0)


FAMILIES = {
    "NormGrad": cea.NormGrad,
    "conv3x3": functools.partial(cea.ExtractAggregate, extract="conv3x3", aggregate="filter_norm"),
    "GradCAM": cea.GradCAM,
    "GradCAM++": cea.GradCAMPlusPlus,
    "GradMid": cea.GradMid,
    "guided": cea.GuidedBackprop,
    "deconvolution": cea.Deconvolution,
    "RectGrad": cea.RectGrad,
    "RectGrad Mod": cea.RectGradMod,
    "LRP": cea.LRP,
    "excitation": cea.ExcitationBackprop,
}
WITHOUT_TANH = [Pyramid, Skip, UsedEarlier, Stash, Encoder, Twice, Branches]


@pytest.mark.parametrize("graph", WITHOUT_TANH)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, graph, monkeypatch):
    torch.manual_seed(3)
    monkeypatch.setattr(Graph, "scores", lambda self, t: self.head(t.relu().mean((2, 3))))
    model, x = graph().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    layers = [m for m in differentiable_layers(model, x) if not isinstance(m, nn.Linear)]
    together = FAMILIES[family](model, layers, layout="channels_first").attribute(x, target=1)
    for layer, maps in zip(layers, together):
        alone = FAMILIES[family](model, layer, layout="channels_first").attribute(x, target=1)
        torch.testing.assert_close(maps, alone, rtol=1e-9, atol=1e-12)


def test_a_layer_that_gives_out_its_input_is_not_stepped_over_by_many_examples_at_once():
    """Meta-saliency's examples together, where the layers' outputs are replaced by sums."""
    torch.manual_seed(0)
    model, x = Skip().eval(), torch.randn(4, 3, 8, 8)
    maps = [
        cea.MetaSaliency(cea.LinearApproximation(model, "i"), lr=0.01, vectorized=vectorized).attribute(x, target=1)
        for vectorized in (False, True)
    ]
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-6)
