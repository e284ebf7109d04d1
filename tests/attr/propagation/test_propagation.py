"""Propagation rules against literal references, Captum, zennit, and the laws they must obey."""

import itertools
import math
import warnings

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.operations import OPERATIONS
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    WSquare,
    ZBox,
    ZPlus,
    part_shares,
    parts_of_sums,
)
from captum_extract_aggregate.attr.propagation.relevance_interception import finite
from captum_extract_aggregate.data.scene_models import build_scene_model
from tests.conftest import REAL_DATA, SmallNet, needs_real_data, relative_error
from tests.networks import CifarResNet20, lively, vgg11
from tests.reference import propagation as reference
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


@pytest.fixture(params=["plain", "residual"])
def steps(request):
    torch.manual_seed(0)
    return {"plain": plain, "residual": residual}[request.param]()


FAMILIES = {
    "guided": (cea.GuidedBackprop, {}, reference.guided_rules()),
    "deconvolution": (cea.Deconvolution, {}, reference.deconvolution_rules()),
    "rectgrad": (cea.RectGrad, {"percentile": 70}, reference.rectgrad_rules(70)),
    "rectgrad at 0": (cea.RectGrad, {"percentile": 0}, reference.rectgrad_rules(0)),
    "rectgrad mod": (cea.RectGradMod, {"percentile": 90}, reference.rectgrad_mod_rules(90)),
    "lrp 0": (cea.LRP, {}, reference.lrp_gamma_rules(0, 1e-9)),
    "lrp gamma": (cea.LRP, {"gamma": 0.3, "epsilon": 1e-3}, reference.lrp_gamma_rules(0.3, 1e-3)),
    "lrp infinity": (cea.LRP, {"gamma": math.inf}, reference.lrp_gamma_rules(math.inf)),
    "excitation": (cea.ExcitationBackprop, {}, reference.excitation_rules()),
    **{
        f"excitation, {sums}, {lost}": (
            cea.ExcitationBackprop,
            {"sums": sums, "lost": lost},
            reference.excitation_rules(sums, lost == "spread"),
        )
        for sums, lost in [("signed", "spread"), ("positive", "drop"), ("positive", "spread")]
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_literal_references(steps, family):
    """At the input and at every module, for a batch, in float64."""
    method, arguments, rules = FAMILIES[family]
    net = Steps(steps).double().eval()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64) * 3

    def of_one(example):
        values = reference.forward(steps, example)
        logits = values[steps[-1].output]
        seed = reference.one_hot(logits, TARGET) * (logits if "lrp" in family else 1)
        return reference.propagate(steps, values, seed, rules)

    expected = reference.per_example(of_one, x)
    got = method(net, **arguments).attribute(x, target=TARGET)
    tolerance = 1e-8 if "lrp" in family or "signed" in family else 1e-10  # cancelling sums in denominators
    assert relative_error(got, expected["x"] * (x if "rectgrad" in family else 1)) < tolerance
    for name in net.named:
        if expected[name].ndim == 4:
            at = method(net, f"named.{name}", aggregate="sum", **arguments).attribute(x, target=TARGET)
            values = reference.per_example(lambda e: reference.forward(steps, e), x)[name]
            want = expected[name] * (values if "rectgrad" in family else 1)
            assert relative_error(at, want.sum(1, keepdim=True)) < tolerance, name


@pytest.mark.parametrize("clamp", ["map", "contrast"])
def test_contrastive_reference(steps, clamp):
    net = Steps(steps).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def of_one(example):
        return reference.contrastive(steps, reference.forward(steps, example), TARGET, clamp == "contrast")

    expected = reference.per_example(of_one, x)
    got = cea.ContrastiveExcitationBackprop(net, clamp=clamp).attribute(x, target=TARGET)
    torch.testing.assert_close(got, expected["x"].clamp(min=0), rtol=1e-10, atol=1e-14)
    name = next(step.output for step in steps if step.kind.endswith("pool"))
    at = cea.ContrastiveExcitationBackprop(net, f"named.{name}", clamp=clamp).attribute(x, target=TARGET)
    torch.testing.assert_close(at, expected[name].sum(1, keepdim=True).clamp(min=0), rtol=1e-10, atol=1e-14)
    excitation = cea.ExcitationBackprop(net, f"named.{name}").attribute(x, target=TARGET)
    assert torch.allclose(at, excitation, atol=1e-12) == (clamp == "contrast")  # disjoint supports: see the docstring


def test_contrast_layer_by_name():
    """At a layer of one's own choice, the network's own classifier still being negated."""
    torch.manual_seed(0)
    net = vgg11().double().eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    automatic = cea.ContrastiveExcitationBackprop(net, "features.10").attribute(x, target=1)
    by_name = cea.ContrastiveExcitationBackprop(net, "features.10", contrast_layer="classifier.2").attribute(
        x, target=1
    )
    lower = cea.ContrastiveExcitationBackprop(net, "features.10", contrast_layer="features.20").attribute(x, target=1)
    clamped = cea.ContrastiveExcitationBackprop(
        net, "features.10", contrast_layer="features.20", clamp="contrast"
    ).attribute(x, target=1)
    assert torch.equal(automatic, by_name)
    assert relative_error(lower, automatic) < 1e-10  # without clamping, the difference may be taken anywhere
    assert relative_error(clamped, lower) > 1e-3


# Networks


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


@pytest.mark.parametrize("name", NETWORKS)
def test_conservation(name):
    """What does not arrive is reported; with `lost="spread"` everything does: 1, or the logit."""
    net = network(name)
    x = pictures(net)
    logits = net(x).detach()[:, TARGET]
    published, gap = cea.ExcitationBackprop(net).attribute(x, target=TARGET, return_convergence_delta=True)
    # Where addends nearly cancel, shares are large, and rounding with them.
    torch.testing.assert_close(published.sum((1, 2, 3)) - 1, gap, rtol=0, atol=1e-8)
    relevance = cea.LRP(net, gamma=math.inf).attribute(x, target=TARGET)
    assert relative_error(published * logits[:, None, None, None], relevance) < 1e-9
    for lost in ("spread", "drop"):
        calm = cea.ExcitationBackprop(net, sums="positive", lost=lost).attribute(x, target=TARGET)
        assert (calm >= -1e-12).all() or "convnext" in name
        missing = 1 - calm.sum((1, 2, 3))
        assert missing.min() > -1e-10
        assert lost == "drop" or missing.max() < 1e-10


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("mobilenet_v2", "mnasnet", "convnext")])
def test_lrp_0_is_gradient_x_input(name):
    """Exactly so with biases and BatchNorm too, as long as the only nonlinearities are ReLUs and maxima."""
    net = network(name)
    x = pictures(net)
    expected = captum.attr.InputXGradient(net).attribute(x, target=TARGET)
    assert relative_error(cea.LRP(net, epsilon=0).attribute(x, target=TARGET), expected) < 1e-6


def test_lrp_bias_share_is_what_is_lost():
    """The delta equals minus what the biases contribute: FullGrad's completeness on the same network."""
    net = network("cifar resnet20")
    x = pictures(net)
    delta = cea.LRP(net, epsilon=0).compute_convergence_delta(x, target=TARGET)
    gradient_x_input = captum.attr.InputXGradient(net).attribute(x, target=TARGET).sum((1, 2, 3))
    assert relative_error(delta, gradient_x_input - net(x)[:, TARGET].detach()) < 1e-8
    bias_free = torchvision.models.resnet18(num_classes=10).double().eval()  # fresh BatchNorm: no shift
    bias_free.fc.bias.data.zero_()
    delta = cea.LRP(bias_free).compute_convergence_delta(x, target=TARGET)
    assert delta.abs().max() < 1e-5 * bias_free(x)[:, TARGET].abs().min()


def test_infinite_gamma_alpha1_beta0_z_plus_and_large_gamma():
    """One rule under many names, on a network whose activations are not negative, and at its signed input."""
    net = network("vgg11")
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    x = pictures(net)
    by_type = {nn.Conv2d: AlphaBeta(1, 0, 0), nn.Linear: AlphaBeta(1, 0, 0)}
    expected = cea.LRP(net, gamma=math.inf).attribute(x, target=TARGET)
    logits = net(x).detach()[:, TARGET, None, None, None]
    assert relative_error(cea.LRP(net, rules=by_type, epsilon=0).attribute(x, target=TARGET), expected) < 1e-9
    zplus = cea.LRP(net, rules={nn.Module: ZPlus()}, epsilon=0).attribute(x, target=TARGET)
    assert relative_error(zplus, expected) < 1e-9
    assert relative_error(cea.ExcitationBackprop(net).attribute(x, target=TARGET) * logits, expected) < 1e-12
    best = net(x).argmax(1)  # below a negative logit, large gamma takes the negative parts instead
    large = cea.LRP(net, gamma=1e7).attribute(x, target=best)
    assert relative_error(large, cea.LRP(net, gamma=math.inf).attribute(x, target=best)) < 1e-4


def test_against_captum_on_relu_modules():
    net = network("vgg11")
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    x = pictures(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guided = captum.attr.GuidedBackprop(net).attribute(x, target=TARGET)
        deconvolution = captum.attr.Deconvolution(net).attribute(x, target=TARGET)
    assert relative_error(cea.GuidedBackprop(net).attribute(x, target=TARGET), guided) < 1e-12
    assert relative_error(cea.Deconvolution(net).attribute(x, target=TARGET), deconvolution) < 1e-12
    functional = network("cifar resnet20")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blind = captum.attr.GuidedBackprop(functional).attribute(x, target=TARGET)
    assert relative_error(blind, captum.attr.Saliency(functional).attribute(x, target=TARGET, abs=False)) < 1e-12
    assert relative_error(cea.GuidedBackprop(functional).attribute(x, target=TARGET), blind) > 0.1


@pytest.mark.parametrize("gamma", [0.0, 0.25, 2.0])
def test_against_zennit(gamma):
    pytest.importorskip("zennit")
    from zennit import attribution, composites, rules, types

    net = network("vgg11")
    x = pictures(net)
    rule = rules.Gamma(gamma, stabilizer=1e-9) if gamma else rules.Epsilon(1e-9)
    layers = [(types.Activation, rules.Pass()), (types.AvgPool, rules.Norm(1e-9)), (types.Linear, rule)]
    composite = composites.LayerMapComposite(layers)
    for target in (0, 3):
        logits = net(x).detach()
        seed = torch.zeros_like(logits)
        seed[:, target] = logits[:, target]
        with attribution.Gradient(net, composite) as attributor:
            _, expected = attributor(x, seed)
        assert relative_error(cea.LRP(net, gamma=gamma).attribute(x, target=target), expected) < 1e-6


# Rules for single layers


def one_layer(layer, rule, x):
    net = nn.Sequential(layer, nn.Flatten()).double()
    return cea.LRP(net, rules={"0": rule}).attribute(x, target=0)


def test_rules_of_a_first_layer():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 1, 3).double()
    w, b = layer.weight.detach()[0], layer.bias.detach()
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64) * 2 - 1
    logit = (w * x).sum() + b
    flat = torch.full_like(x, 1 / 18) * logit
    assert relative_error(one_layer(layer, Flat(), x), flat) < 1e-12
    assert relative_error(one_layer(layer, WSquare(), x), w**2 / (w**2).sum() * logit) < 1e-12
    z = x * w + w.clamp(min=0) - w.clamp(max=0)  # low = -1, high = 1
    assert relative_error(one_layer(layer, ZBox(-1, 1), x), z / z.sum() * logit) < 1e-8
    bounds = ZBox(-torch.ones(2, 1, 1), torch.ones(2, 1, 1))
    assert relative_error(one_layer(layer, bounds, x), z / z.sum() * logit) < 1e-8
    contributions = x * w
    up, down = contributions.clamp(min=0), contributions.clamp(max=0)
    alpha_beta = (2 * up / up.sum() - down / down.sum()) * logit
    assert relative_error(one_layer(layer, AlphaBeta(2, 1), x), alpha_beta) < 1e-8
    assert relative_error(one_layer(layer, Epsilon(0.5), x), x * w / (logit + 0.5 * logit.sign()) * logit) < 1e-12


def test_composite_names_win_over_types_and_inner_over_outer():
    net = network("vgg11")
    x = pictures(net)

    def with_rules(rules):
        return cea.LRP(net, rules=rules).attribute(x, target=TARGET)

    everywhere = with_rules({nn.Conv2d: Gamma(0.3)})
    assert torch.equal(everywhere, with_rules({"features": Gamma(0.3)}))
    assert torch.equal(everywhere, with_rules({net.features: Gamma(0.3)}))
    mixed = with_rules({nn.Conv2d: Gamma(0.3), "features.0": Flat()})
    assert torch.equal(mixed, with_rules({"features": Gamma(0.3), "features.0": Flat(), nn.Conv2d: WSquare()}))
    assert not torch.equal(mixed, everywhere)


# Operations, however they are called


class Spellings(nn.Module):
    """One network in many spellings."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def relu(self, x):
        return {
            "module": nn.ReLU(),
            "matmul": nn.ReLU(),
            "in-place module": nn.ReLU(inplace=True),
            "torch": torch.relu,
            "torch in place": torch.relu_,
            "method": lambda t: t.relu(),
            "method in place": lambda t: t.relu_(),
            "functional in place": lambda t: F.relu(t, inplace=True),
            "by keywords": lambda t: F.relu(input=t, inplace=True),
            "clamp": lambda t: t.clamp(min=0),
            "clamp_min_": lambda t: t.clamp_min_(0),
            "threshold": lambda t: F.threshold(t, 0, 0),
            "hardtanh": lambda t: F.hardtanh(t, 0, 1e9),
            "leaky": lambda t: F.leaky_relu(t, 0.0),
        }[self.how](x)

    def forward(self, x):
        y = self.relu(self.conv1(x))
        z = self.conv2(y)
        if "in place" in self.how:
            z += y
        else:
            z = torch.add(z, y) if self.how == "torch" else z.add_(y) if self.how == "method in place" else z + y
        z = self.relu(z)
        pooled = z.mean((2, 3)) if "torch" in self.how else F.adaptive_avg_pool2d(z, 1).flatten(1)
        if self.how == "matmul":
            return pooled @ self.head.weight.T + self.head.bias
        return self.head(pooled)


SPELLINGS = [
    "module", "in-place module", "torch", "torch in place", "method", "method in place", "functional in place",
    "by keywords", "clamp", "clamp_min_", "threshold", "hardtanh", "leaky",
]  # fmt: skip
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


@pytest.mark.parametrize("method", METHODS)
def test_every_spelling_is_seen(method):
    torch.manual_seed(0)
    reference_net = Spellings("module").double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = METHODS[method](reference_net).attribute(x, target=TARGET)
    # With a finite gamma, a product and then a sum are shared out one after the other.
    for how in SPELLINGS + (["matmul"] if method != "lrp" else []):
        net = Spellings(how).double()
        net.load_state_dict(reference_net.state_dict())
        tolerance = 1e-6 if how == "matmul" else 1e-12  # epsilon acts twice
        assert relative_error(METHODS[method](net).attribute(x, target=TARGET), expected) < tolerance, how
        at = METHODS[method](net, net.conv2).attribute(x, target=TARGET)
        at_reference = METHODS[method](reference_net, reference_net.conv2).attribute(x, target=TARGET)
        assert relative_error(at, at_reference) < tolerance, how


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["vgg11", "resnet18", "cifar resnet20", "scene resnet"])
def test_a_batch_is_its_examples(method, name):
    net = network(name)
    x = pictures(net, 3)
    layer = [None, next(iter(cea.default_layers(net).values()))]
    targets = [1, 4, 2]
    together = METHODS[method](net, layer).attribute(x, target=targets)
    for i in range(3):
        alone = METHODS[method](net, layer).attribute(x[i : i + 1], target=targets[i])
        assert all(relative_error(t[i : i + 1], a) < 1e-9 for t, a in zip(together, alone))
    again = METHODS[method](net, layer).attribute(x, target=targets)
    assert all(torch.equal(t, a) for t, a in zip(together, again))
    per_target = METHODS[method](net, layer[1]).attribute_per_target(x, targets=[[1, 4], [4, 0], [2, 2]])
    assert relative_error(per_target[:, 0], together[1]) < 1e-9
    assert per_target.shape[:3] == (3, 2, 1)


@pytest.mark.parametrize("method", METHODS)
def test_low_precision_and_autocast(method):
    net = network("scene resnet").float()
    image, _ = cea.DigitScenes(n=1)[0]
    exact = METHODS[method](net, "layer3").attribute(image[None], target=7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = METHODS[method](net, "layer3").attribute(image[None], target=7)
    low = METHODS[method](net.bfloat16(), "layer3").attribute(image[None].bfloat16(), target=7)
    assert low.dtype == torch.bfloat16
    for other in (low.float(), mixed):
        close = torch.nn.functional.cosine_similarity(other.flatten(), exact.flatten(), dim=0)
        assert close > (0.97 if method != "lrp 0" else 0.7), float(close)  # LRP-0 is as noisy as gradients


# Captum's conventions


def test_input_conventions():
    net = SmallNet().eval()
    x = torch.randn(2, 3, 12, 12)
    single = cea.GuidedBackprop(net).attribute(x, target=1)
    (in_tuple,) = cea.GuidedBackprop(net).attribute((x,), target=1)
    assert torch.equal(single, in_tuple)
    assert single.shape == x.shape
    assert not single.requires_grad
    scaled = cea.ExcitationBackprop(net).attribute(x, target=1, additional_forward_args=2.0)
    assert relative_error(scaled, cea.ExcitationBackprop(net).attribute(x, target=1)) < 1e-6
    first, second = cea.LRP(lambda a, b: net(a + b)).attribute((x, torch.randn(2, 3, 12, 12)), target=1)
    assert first.shape == second.shape == x.shape
    to_input = cea.GuidedBackprop(net, "conv2").attribute(x, target=1, attribute_to_layer_input=True)
    torch.testing.assert_close(to_input, cea.GuidedBackprop(net, "relu1").attribute(x, target=1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", [None, "conv3"])
def test_noise_tunnel(method, layer):
    net = SmallNet().eval()
    x = torch.randn(2, 3, 12, 12)
    attribution = METHODS[method](net, layer)
    tunnel = captum.attr.NoiseTunnel(attribution)
    torch.manual_seed(0)
    got = tunnel.attribute(x, nt_samples=3, stdevs=0.1, target=1)
    torch.manual_seed(0)
    noisy = torch.normal(x.repeat_interleave(3, 0), 0.1)
    expected = torch.stack([attribution.attribute(example[None], target=1) for example in noisy])
    torch.testing.assert_close(got, expected.reshape(2, 3, *expected.shape[2:]).mean(1))


def test_names_and_deltas():
    net = SmallNet().eval()
    names = [cls.get_name() for cls in (cea.GuidedBackprop, cea.RectGrad, cea.LRP, cea.ExcitationBackprop)]
    assert names == ["Guided Backprop", "RectGrad", "LRP", "Excitation Backprop"]
    assert cea.LRP(net).has_convergence_delta()
    assert not cea.GuidedBackprop(net).has_convergence_delta()
    assert cea.RectGrad(net).multiplies_by_inputs
    x = torch.randn(2, 3, 12, 12)
    layers = cea.LRP(net, ["conv1", "conv3"], gamma=math.inf)
    maps, deltas = layers.attribute(x, target=1, return_convergence_delta=True)
    logits = net(x)[:, 1].detach()
    for map_, delta in zip(maps, deltas):
        torch.testing.assert_close(map_.sum((1, 2, 3)) - logits, delta, atol=1e-5, rtol=1e-4)
    tunnel = captum.attr.NoiseTunnel(cea.LRP(net, gamma=math.inf))
    assert tunnel.has_convergence_delta()


# What cannot be explained says so


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        y = F.relu(self.conv(x))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(y.mean((2, 3)))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


class SharedBeforeNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), batch_norm(4), nn.Linear(4, 3)

    def forward(self, x):
        y = self.conv(x)
        return self.head((self.norm(y) + y).relu().mean((2, 3)))


def made(body):
    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(body(self.conv(x)).mean((2, 3)))

    return Made().eval()


RNN_OF_RELUS = nn.RNN(4, 4, batch_first=True, nonlinearity="relu")
SCRIPTED = made(torch.jit.script(nn.ReLU()))
NOT_SEEN = {
    "an unknown function": (made(torch.erf), "no rule for torch.erf"),
    "where": (made(lambda y: torch.where(y > 0, y, 0.0)), "no rule for torch.where"),
    "scripted": (SCRIPTED, "could not see"),
    "custom function": (made(Doubled.apply), "DoubledBackward, whose call it could not see"),
}
GUIDED_ONLY = {
    "rnn": (made(lambda y: RNN_OF_RELUS(y.flatten(2).mT)[0].mT[..., None]), "ReLUs run inside"),
    "clamp": (made(lambda y: y.clamp(0.5, 2)), "from 0.5 to 2"),
    "hardtanh": (made(F.hardtanh), "from -1.0 to 1.0"),
}
RELEVANCE_ONLY = {
    "gate": (Squeeze().eval(), "a gate, a softmax or attention"),
    "softmax": (made(lambda y: y.softmax(1)), "explain a logit"),
    "product": (made(lambda y: y * y.flip(1)), "2 tensors that depend on the input"),
    "attention": (made(lambda y: y @ y.mT), "attention"),
    "weights": (
        made(lambda y: F.conv2d(y, y[:1, :, :3, :3].expand(4, -1, -1, -1))),
        "tensors that depend on the input",
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_no_rule_knows_is_an_error(method):
    x = torch.randn(1, 3, 8, 8)
    gated = method in ("guided", "deconvolution", "rectgrad", "rectgrad mod")
    for case, (net, message) in {**NOT_SEEN, **(GUIDED_ONLY if gated else RELEVANCE_ONLY)}.items():
        with pytest.raises(ValueError, match=message):
            METHODS[method](net).attribute(x, target=0)
        fine = SmallNet().eval()  # nothing is left behind
        assert torch.isfinite(METHODS[method](fine).attribute(x, target=0)).all(), case
    for net, _ in (RELEVANCE_ONLY if gated else {}).values():
        METHODS[method](net).attribute(x, target=0)


def test_shared_before_a_norm():
    x = torch.randn(1, 3, 8, 8)
    net = SharedBeforeNorm().eval()
    with pytest.raises(ValueError, match="used elsewhere too"):
        cea.LRP(net).attribute(x, target=0)
    assert cea.LRP(net, gamma=math.inf, lost="spread").compute_convergence_delta(x, target=0).abs() < 1e-5


def test_vision_transformers_are_errors_that_name_attention():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3).eval()
    with pytest.raises(ValueError, match="multi_head_attention_forward"):
        cea.LRP(vit).attribute(torch.randn(1, 3, 32, 32), target=0)
    x = torch.randn(1, 3, 32, 32)
    nn.init.normal_(vit.heads.head.weight)
    gradient = captum.attr.Saliency(vit).attribute(x, target=0, abs=False)
    assert relative_error(cea.GuidedBackprop(vit).attribute(x, target=0), gradient) < 1e-6


@pytest.fixture
def registry():
    functions = [torch.erf, torch.Tensor.mul, torch.sigmoid, torch.relu_, F.glu]
    yield
    for function in functions:
        if function in OPERATIONS:
            cea.unregister_operation(function)


def test_registered_operations(registry):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    net = made(torch.erf).double()
    gradient = captum.attr.Saliency(net).attribute(x, target=0, abs=False)
    cea.register_operation(torch.erf, "gradient")
    assert relative_error(cea.GuidedBackprop(net).attribute(x, target=0), gradient) < 1e-12
    with pytest.raises(ValueError, match=r"function is torch\.erf, which has a rule already"):
        cea.register_operation(torch.erf, "identity")
    cea.register_operation(torch.erf, "identity", overwrite=True)
    plain_net = made(nn.Identity()).double()
    plain_net.load_state_dict(net.state_dict())
    expected = captum.attr.Saliency(plain_net).attribute(x, target=0, abs=False)
    assert relative_error(cea.GuidedBackprop(net).attribute(x, target=0), expected) < 1e-12
    assert cea.ExcitationBackprop(net, lost="spread").compute_convergence_delta(x, target=0).abs().max() < 1e-12
    cea.register_operation(torch.erf, lambda r, output, y: 2 * r, overwrite=True)
    assert relative_error(cea.GuidedBackprop(net).attribute(x, target=0), 2 * expected) < 1e-12
    cea.register_operation(torch.erf, "relu", overwrite=True)
    assert cea.Deconvolution(net).attribute(x, target=0).shape == x.shape
    cea.register_operation(torch.erf, lambda r, output, y: r.sum(), overwrite=True)
    with pytest.raises(ValueError, match=r"the rule registered for torch\.erf returned"):
        cea.GuidedBackprop(net).attribute(x, target=0)
    cea.unregister_operation(torch.erf)
    with pytest.raises(ValueError, match=r"no rule for torch\.erf"):
        cea.GuidedBackprop(net).attribute(x, target=0)


def test_the_signal_takes_all_in_a_gated_network(registry):
    """The rule of the documentation, on squeeze and excitation: nothing is lost, and the gate gets nothing."""

    def signal_takes_all(relevance, output, *factors):
        gate = min(range(len(factors)), key=lambda i: factors[i].numel())
        return tuple(torch.zeros_like(f) if i == gate else relevance for i, f in enumerate(factors))

    with pytest.raises(ValueError, match=r"torch\.Tensor\.mul, which has a rule already \(scale\).*overwrite=True"):
        cea.register_operation(torch.Tensor.mul, signal_takes_all)
    cea.register_operation(torch.Tensor.mul, signal_takes_all, overwrite=True)
    cea.register_operation(torch.sigmoid, lambda relevance, output, gate: torch.zeros_like(gate), overwrite=True)
    x = torch.randn(1, 3, 8, 8)
    delta = cea.ExcitationBackprop(Squeeze().eval(), lost="spread").compute_convergence_delta(x, target=0)
    assert delta.abs() < 1e-6


def test_registering_nonsense():
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        cea.register_operation(torch.erf, "relus")
    with pytest.raises(TypeError, match="function is a str"):
        cea.register_operation("erf", "relu")


def test_rules_of_ones_own_for_in_place_functions(registry):
    cea.register_operation(torch.relu_, lambda r, output, x: r, overwrite=True)
    with pytest.raises(ValueError, match="works in place"):
        cea.GuidedBackprop(made(torch.relu_)).attribute(torch.randn(1, 3, 8, 8), target=0)


def test_in_place_on_what_a_rule_needs():
    """A convolution's input that is overwritten afterwards: an error, as in training, and not a wrong map."""

    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            y = self.conv1(x)
            z = self.conv2(y)
            y += z
            return y.mean((2, 3))

    net = Overwrites().eval()
    with pytest.raises(ValueError, match="overwrites a tensor in place"):
        cea.ExcitationBackprop(net).attribute(torch.randn(1, 3, 8, 8), target=0)


def test_the_whole_zoo_of_scene_models():
    for name in ("vgg", "resnet"):
        net = build_scene_model(name).eval()
        for method in METHODS.values():
            maps = method(net, list(cea.default_layers(net).values())).attribute(torch.randn(1, 3, 96, 96), target=3)
            assert all(m.shape[1] == 1 and torch.isfinite(m).all() for m in maps)


# Real networks


REAL = {
    "squeezenet": lambda: torchvision.models.squeezenet1_1(),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(),
    "resnet20": CifarResNet20,
}


@needs_real_data
@pytest.mark.parametrize("name", REAL)
def test_real_networks_on_real_pictures(name):
    """Trained weights and photographs, in float32: sums hold, and the rules differ where they should."""
    files = {"squeezenet": "squeezenet1_1-imagenet", "mobilenet_v2": "mobilenet_v2-imagenet"}
    path = REAL_DATA / "models" / f"{files.get(name, 'resnet20-cifar10')}.pth"
    net = REAL[name]().eval()
    net.load_state_dict(torch.load(path, weights_only=True))
    size = 32 if name == "resnet20" else 224
    paths = sorted((REAL_DATA / "imagenet_sample").glob("*.jpg"))[:3]
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    pictures = torch.stack([(F.adaptive_avg_pool2d(_picture(path), size) - mean) / std for path in paths])
    logits, target = net(pictures).detach().max(1)
    spread = {"sums": "positive", "lost": "spread"}
    gap = cea.ExcitationBackprop(net, **spread).compute_convergence_delta(pictures, target=target)
    infinite = cea.LRP(net, gamma=math.inf, **spread).compute_convergence_delta(pictures, target=target) / logits
    zero = cea.LRP(net).attribute(pictures, target=target)
    delta = cea.LRP(net).compute_convergence_delta(pictures, target=target) / logits
    print(f"{name}: EB {gap.abs().max():.1e}, LRP-inf {infinite.abs().max():.1e}, LRP-0 biases {delta.tolist()}")
    assert gap.abs().max() < 1e-4
    assert infinite.abs().max() < 1e-4
    if name != "mobilenet_v2":  # whose ReLU6 saturates
        expected = captum.attr.InputXGradient(net).attribute(pictures, target=target)
        assert relative_error(zero, expected) < 1e-2
    guided = cea.GuidedBackprop(net).attribute(pictures, target=target)
    assert relative_error(guided, captum.attr.Saliency(net).attribute(pictures, target=target, abs=False)) > 0.05


def _picture(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


@pytest.mark.slow
def test_every_torchvision_classifier():
    """Conserved, or an error that names the operation."""
    outcomes = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        torch.manual_seed(0)
        extra = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        net = lively(torchvision.models.get_model(name, weights=None, **extra))
        x = torch.randn(1, 3, 224, 224)
        for method in (cea.ExcitationBackprop, cea.GuidedBackprop):
            try:
                spread = {"lost": "spread"} if method is cea.ExcitationBackprop else {}
                outcome = float(method(net, **spread).attribute(x, target=1).sum())
            except ValueError as error:
                outcome = str(error).split(",")[0]
            outcomes[name, method.__name__] = outcome
            if isinstance(outcome, str):
                assert "has no rule for torch." in outcome, name
            elif method is cea.ExcitationBackprop:
                assert abs(outcome - 1) < 1e-3, name
        del net
    explained = {name for (name, method), what in outcomes.items() if method[0] == "E" and isinstance(what, float)}
    print(sorted(explained), {k: v for k, v in outcomes.items() if isinstance(v, str)})
    assert len(explained) >= 45


# What a reviewer found


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


def _into_a_constant(net, y):
    y, z = y.relu(), net.conv2(y).relu()
    b = torch.zeros_like(y)
    b.narrow(1, 0, 4).add_(z)
    return b + y


def _dropout_in_place(net, y):
    y = net.drop(y)
    y.relu_()
    return net.conv2(y)


def _same_size_pool(net, y):
    z = F.adaptive_avg_pool2d(y, y.shape[-1])
    z.relu_()
    return net.conv2(z)


EQUAL = {
    "a sum into a view of a constant": (
        _into_a_constant,
        lambda n, y: torch.zeros_like(y) + n.conv2(y).relu() + y.relu(),
    ),
    "dropout, then in place": (_dropout_in_place, lambda n, y: n.conv2(y.relu())),
    "a pool of its own size, then in place": (_same_size_pool, lambda n, y: n.conv2(y.relu())),
    "linalg": (
        lambda n, y: torch.linalg.matmul(y.relu().movedim(1, -1), n.head.weight.new_ones(4, 4)).movedim(-1, 1),
        lambda n, y: (y.relu().movedim(1, -1) @ n.head.weight.new_ones(4, 4)).movedim(-1, 1),
    ),
    "max over a dimension": (
        lambda n, y: y.max(1, keepdim=True)[0].relu() + y,
        lambda n, y: y.amax(1, True).relu() + y,
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", EQUAL)
def test_equal_networks(method, case):
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    got, expected = (METHODS[method](Variant(part).double().eval()).attribute(x, target=1) for part in EQUAL[case])
    assert relative_error(got, expected) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_returns_its_input(method):
    """The tap lies on a tensor that others use under another name."""

    def aliased(net, y):
        return net.conv2(F.relu(net.drop(y))) + F.relu(y)

    net = Variant(aliased).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    got, expected = (METHODS[method](net, layer).attribute(x, target=1) for layer in ("drop", "conv1"))
    if "lrp" not in method and "ex" not in method and "contrastive" not in method:
        assert relative_error(got, expected) < 1e-10


REFUSED = {
    "a mask": (lambda n, y: y * (y > 0), "a rectifier in disguise", "gated"),
    "a masked assignment": (lambda n, y: _assigned(y), "a rectifier in disguise", "gated"),
    "softplus": (lambda n, y: F.softplus(y), "softplus", "relevance"),
    "maximum with a constant": (lambda n, y: torch.maximum(y, torch.zeros(())), "a tensor and a constant", "both"),
    "a constant over the input": (
        lambda n, y: torch.ones(1) / (y.relu() + 1),
        "of a constant by what depends",
        "relevance",
    ),
    "division with rounding": (lambda n, y: torch.div(y, 0.1, rounding_mode="trunc"), "rounding", "relevance"),
    "bicubic": (lambda n, y: F.interpolate(y, scale_factor=2, mode="bicubic"), "bicubic", "relevance"),
    "batch statistics": (
        lambda n, y: F.batch_norm(y, None, None, training=True),
        "statistics of the batch",
        "both",
    ),
}


def _assigned(y):
    y = y.clone()
    y[y < 0] = 0
    return y


@pytest.mark.parametrize("method", METHODS)
def test_refused_networks(method):
    family = "gated" if method in ("guided", "deconvolution", "rectgrad", "rectgrad mod") else "relevance"
    for part, message, whose in REFUSED.values():
        if whose in (family, "both"):
            with pytest.raises(ValueError, match=message):
                METHODS[method](Variant(part).eval()).attribute(torch.randn(2, 3, 6, 6), target=1)


def test_weights_that_change_after_use():
    def overwrites(net, y):
        w = net.conv2.weight.clone()
        z = F.conv2d(y, w, padding=1).relu()
        w.zero_()
        return z

    with pytest.raises(ValueError, match="overwrites the weights"):
        cea.ExcitationBackprop(Variant(overwrites).eval()).attribute(torch.randn(1, 3, 6, 6), target=1)


def test_overlapping_folds_keep_the_sum():
    def folded(net, y):
        return F.fold(F.unfold(y.relu(), 3, padding=1), y.shape[2:], 3, padding=1)

    net = Variant(folded).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    method = cea.ExcitationBackprop(net, lost="spread")
    assert method.compute_convergence_delta(x, target=1).abs().max() < 1e-10


def test_rectgrad_where_the_batch_is_not_first():
    def swapped(net, y):
        return y.transpose(0, 1).relu().transpose(0, 1)

    net = Variant(swapped).eval()
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(ValueError, match="not the batch of 2"):
        cea.RectGrad(net).attribute(x, target=1)
    single = nn.Sequential(nn.Flatten(), nn.Linear(108, 1), nn.Flatten(0), nn.ReLU())
    assert cea.RectGrad(single).attribute(x).shape == x.shape


def test_threads_of_others_do_not_matter():
    import threading

    net, other = SmallNet().eval(), SmallNet().eval()
    x = torch.randn(1, 3, 12, 12)
    method = cea.LRP(net, rules={nn.Conv2d: Flat()})
    expected = method.attribute(x, target=1)
    stop, failures = threading.Event(), []

    def run():
        while not stop.is_set():
            try:
                with torch.no_grad():
                    other(x)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(torch.equal(method.attribute(x, target=1), expected) for _ in range(40))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_another_thread_may_run_the_contrast_layer():
    import threading

    class RunsItselfBeside(SmallNet):
        beside = False

        def forward(self, x):
            if self.beside and threading.current_thread() is threading.main_thread():
                thread = threading.Thread(target=torch.no_grad()(lambda: self(x)))
                thread.start()
                thread.join()
            return super().forward(x)

    net, x = RunsItselfBeside().eval(), torch.randn(1, 3, 12, 12)
    method = cea.ContrastiveExcitationBackprop(net, contrast_layer="relu2")
    expected = method.attribute(x, target=1)
    net.beside = True
    assert torch.equal(method.attribute(x, target=1), expected)


def test_modules_that_ask_for_a_map_are_not_part_of_the_model():
    """Their rules are not its rules, nor do errors speak of them."""

    class Explainer(nn.Module):
        def forward(self, x):
            return cea.LRP(net, rules={Explainer: Flat()}).attribute(x, target=1)

    class Unknown(nn.Module):
        def forward(self, x):
            return torch.sin(x).flatten(1)

    net, x = SmallNet().eval(), torch.randn(1, 3, 12, 12)
    assert torch.equal(Explainer()(x), cea.LRP(net).attribute(x, target=1))
    outer = Explainer()
    with pytest.raises(ValueError, match="in which no convolution"):
        cea.LRP(net, rules={outer: Flat()}).attribute(x, target=1)
    net = nn.Sequential(Unknown())
    with pytest.raises(ValueError, match="called in '0'"):
        nn.Sequential(nn.Sequential(Explainer()))(x)


@pytest.mark.parametrize("gamma", [0, 0.25, float("inf")])
def test_operations_on_nothing(gamma):
    """An empty slice of the channels, as pruned networks have them."""

    def split(net, y):
        none = y[:, y.shape[1] :]
        return torch.cat([y, none + none, F.linear(none, torch.eye(y.shape[-1]))], 1)

    net, x = Variant(split).eval(), torch.randn(1, 3, 6, 6)
    plain = Variant(lambda net, y: y).eval()
    plain.load_state_dict(net.state_dict())
    got, expected = (cea.LRP(each, gamma=gamma).attribute(x, target=1) for each in (net, plain))
    torch.testing.assert_close(got, expected)


def test_infinite_addends_take_nothing():
    """Padding with minus infinity, in front of a maximum say."""
    addends = [torch.tensor([1.0, 2, 0, -1]), torch.tensor([-torch.inf, 1, 0, -3])]
    spread = part_shares([finite(t) for t in addends], [None, None], parts_of_sums("positive", "spread"))
    assert torch.allclose(spread[0], torch.tensor([1, 2 / 3, 0.5, 0.25]))
    assert torch.allclose(spread[1], torch.tensor([0, 1 / 3, 0.5, 0.75]))
    signed = part_shares([finite(t) for t in addends], [None, None], parts_of_sums("signed", "drop"))
    assert torch.allclose(signed[0], torch.tensor([0, 2 / 3, 0, 0.25]))


def test_nothing_stays_in_memory():
    import gc
    import weakref

    from captum_extract_aggregate.attr.propagation import relevance_interception

    made = []
    original = relevance_interception.RelevanceInterception.__init__

    def spy(self, *args, **kwargs):
        original(self, *args, **kwargs)
        made.append(weakref.ref(self))

    net = SmallNet().eval()
    gc.collect()
    gc.disable()
    try:
        relevance_interception.RelevanceInterception.__init__ = spy
        for method in (cea.LRP(net), cea.ContrastiveExcitationBackprop(net, contrast_layer="relu2")):
            method.attribute(torch.randn(1, 3, 12, 12), target=1)
        assert [ref() for ref in made] == [None, None]
    finally:
        relevance_interception.RelevanceInterception.__init__ = original
        gc.enable()


def test_numbers_of_numpy_and_other_arguments(registry):
    net = SmallNet().eval()
    assert cea.RectGrad(net, percentile=np.int64(98)).percentile == 98
    assert cea.LRP(net, gamma=np.float32(0.25)).gamma == 0.25
    with pytest.raises(ValueError, match="how is \\[\\]"):
        cea.register_operation(torch.erf, [])
    with pytest.raises(TypeError, match="low is a str"):
        ZBox("a", 1)
    with pytest.raises(ValueError, match="low is above high"):
        ZBox(1, 0)
    with pytest.raises(ValueError, match="C x 1 x 1"):
        cea.LRP(net, rules={"conv1": ZBox(torch.zeros(7), torch.ones(7))}).attribute(torch.randn(1, 3, 12, 12), 1)
    with pytest.raises(ValueError, match="has no convergence delta"):
        cea.ContrastiveExcitationBackprop(net).attribute(torch.randn(1, 3, 12, 12), 1, return_convergence_delta=True)
    cea.register_operation(F.glu, "identity")
    halved = Variant(lambda n, y: F.glu(y, 1)).eval()
    with pytest.raises(ValueError, match="keeps the shape"):
        cea.ExcitationBackprop(halved).attribute(torch.randn(1, 3, 6, 6), 1)


# Excitation backprop as published


def test_an_input_that_only_inhibits_receives_nothing():
    """The second unit lives from its bias: nobody excites it, so what it would pass on is lost, and reported."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    net[0].weight.data, net[0].bias.data = torch.tensor([[1.0, 0], [-1, -1]]), torch.tensor([0.0, 10])
    net[2].weight.data, net[2].bias.data = torch.ones(1, 2), torch.zeros(1)
    x = torch.ones(1, 2)
    published, delta = cea.ExcitationBackprop(net).attribute(x, target=0, return_convergence_delta=True)
    torch.testing.assert_close(published, torch.tensor([[1 / 9, 0]]))
    torch.testing.assert_close(delta, torch.tensor([-8 / 9]))
    torch.testing.assert_close(cea.LRP(net, gamma=math.inf).attribute(x, target=0), torch.tensor([[1.0, 0]]))
    spread = cea.ExcitationBackprop(net, lost="spread").attribute(x, target=0)
    torch.testing.assert_close(spread, torch.tensor([[5 / 9, 4 / 9]]))


SUMS = {
    "operator": lambda a, b: a - b,
    "function": lambda a, b: torch.sub(a, b),
    "factor": lambda a, b: torch.add(a, b, alpha=-1),
    "reversed": lambda a, b: torch.rsub(b, a),
    "in place": lambda a, b: a.clone().sub_(b),
    "operator in place": lambda a, b: _minus(a.clone(), b),
    "negated": lambda a, b: a + -b,
    "stacked": lambda a, b: torch.stack([a, -b]).sum(0),
    "averaged": lambda a, b: torch.stack([a, -b], -1).mean(-1) * 2,
    "concatenated": lambda a, b: torch.cat([a[:, None], -b[:, None]], 1).sum(1),
}


def _minus(a, b):
    a -= b
    return a


@pytest.mark.parametrize("spelling", SUMS)
def test_signed_shares_at_a_difference(spelling):
    """3 - 2: shares of 3 and -2; the positive parts alone would give 1 and 0."""
    weights = torch.tensor([[3.0, 0, 0, 0], [0, 2, 0, 0]])

    class Difference(nn.Module):
        def forward(self, x):
            return SUMS[spelling](x @ weights[:1].T, x @ weights[1:].T)

    x = torch.tensor([[1.0, 1, 0, 0]])
    torch.testing.assert_close(
        cea.ExcitationBackprop(Difference()).attribute(x, target=0), x * torch.tensor([3, -2, 0, 0])
    )
    got = cea.ExcitationBackprop(Difference(), sums="positive").attribute(x, target=0)
    torch.testing.assert_close(got, x * torch.tensor([1, 0, 0, 0]))
    cancels = torch.tensor([[2.0, 3, 0, 0]])
    assert not cea.ExcitationBackprop(Difference()).attribute(cancels, target=0).any()


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50"])
def test_excitation_backprop_against_zennit(name):
    """At the input, negative pixels included, and with BatchNorm merged, which for positive scales is the same."""
    pytest.importorskip("zennit")
    from zennit import attribution, composites
    from zennit import torchvision as canonizers

    net = network(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.abs_()
            module.eps = 0.0  # which zennit before 1.0 leaves in the merged one
    x = pictures(net, 1)
    ours = cea.ExcitationBackprop(net).attribute(x, target=TARGET)
    canonizer = canonizers.VGGCanonizer() if name == "vgg11" else canonizers.ResNetCanonizer()
    composite = composites.ExcitationBackprop(stabilizer=1e-30, zero_params=["bias"], canonizers=[canonizer])
    with attribution.Gradient(net, composite) as attributor:
        _, expected = attributor(x, torch.eye(10, dtype=x.dtype)[[TARGET]])
    assert relative_error(ours, expected) < 1e-6


def test_sums_and_lost_are_checked():
    net = SmallNet().eval()
    for make, message in [
        (lambda: cea.ExcitationBackprop(net, sums="sign"), "did you mean 'signed'"),
        (lambda: cea.ContrastiveExcitationBackprop(net, lost="dropped"), "did you mean 'drop'"),
        (lambda: cea.LRP(net, gamma=0.25, lost="spread"), "gamma=math.inf"),
        (lambda: ZPlus("spred"), "did you mean 'spread'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# Padding takes no relevance


def _bordered(y):
    buffer = y.new_zeros(*y.shape[:2], y.shape[2] + 2, y.shape[3] + 2)
    buffer[:, :, 1:-1, 1:-1] = y
    return buffer


def _copied(y):
    buffer = y.new_zeros(*y.shape[:2], y.shape[2] + 2, y.shape[3] + 2)
    buffer.narrow(2, 1, y.shape[2])[..., 1:-1].copy_(y)
    return buffer


def _between_zeros(y):
    side = y.new_zeros(*y.shape[:3], 1)
    y = torch.cat([side, y, side], 3)
    side = y.new_zeros(*y.shape[:2], 1, y.shape[3])
    return torch.concat((side, y, side), 2)


def _overwritten(y):
    y = F.pad(y, (1, 1, 1, 1), mode="replicate").clone()
    for edge in (0, -1):
        y[:, :, edge] = 0
        y[..., edge] = 0
    return y


def _as_columns(net, y):
    """The convolution as a product with patches."""
    columns = F.unfold(y, 3, padding=1, stride=2)
    z = (columns.mT @ net.conv.weight.flatten(1).T + net.conv.bias).mT
    return z.unflatten(2, (y.shape[2] // 2, -1))


PADDED = {
    "F.pad": lambda y: F.pad(y, (1, 1, 1, 1)),
    "ZeroPad2d": nn.ZeroPad2d(1),
    "ConstantPad2d": nn.ConstantPad2d(1, 0.0),
    "constant_pad_nd": lambda y: torch.constant_pad_nd(y, (1, 1, 1, 1)),
    "a buffer": _bordered,
    "copied into a buffer": _copied,
    "cat": _between_zeros,
    "overwritten": _overwritten,
    "more, then cropped": lambda y: F.pad(y, (2, 3, 2, 2))[..., 1:-1, 1:-2],
    "one side after the other": lambda y: F.pad(F.pad(y, (1, 1)), (0, 0, 1, 1)),
    "channels last": lambda y: F.pad(y.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).permute(0, 3, 1, 2).contiguous(),
    "before the ReLU": lambda y: F.pad(y, (1, 1, 1, 1)).relu_(),
}
OF_PADDING = {
    **METHODS,
    "spread": lambda *args: cea.ExcitationBackprop(*args, lost="spread"),
    "positive, spread": lambda *args: cea.ExcitationBackprop(*args, sums="positive", lost="spread"),
    **{
        f"{rule}": lambda *args, rule=rule: cea.LRP(*args, rules={nn.Conv2d: rule})
        for rule in (Flat(), WSquare(), ZBox(-1, 2), AlphaBeta(2, 1), Gamma(0.3), ZPlus("spread"), Epsilon(0.1))
    },
}


class Padded(nn.Module):
    def __init__(self, pad=None, inner=None):
        super().__init__()
        torch.manual_seed(0)
        self.pad, self.inner = pad, inner
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1), batch_norm(8)
        self.conv, self.head = nn.Conv2d(8, 8, 3, 2, 0 if pad else 1), nn.Linear(8, 4)

    def forward(self, x):
        y = self.norm(self.first(x)).relu()
        y = self.inner(self, y) if self.inner else self.conv(self.pad(y) if self.pad else y)
        return self.head(y.relu().mean((2, 3)))


def relevance_of_networks(method, *nets):
    torch.manual_seed(3)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    return [
        [OF_PADDING[method](net.double().eval(), at).attribute(x, target=1) for at in (None, "first")] for net in nets
    ]


@pytest.mark.parametrize("method", OF_PADDING)
def test_padding_takes_none_however_it_is_written(method):
    (expected,) = relevance_of_networks(method, Padded())
    assert all(map_.any() for map_ in expected)
    for spelling, pad in PADDED.items():
        (got,) = relevance_of_networks(method, Padded(pad))
        assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, expected)), spelling
    if method in METHODS and method != "lrp":  # else the rule is one for convolutions, or divides the bias
        (got,) = relevance_of_networks(method, Padded(inner=_as_columns))
        assert all(relative_error(a, b) < 1e-6 for a, b in zip(got, expected))


POOLED = {
    "average": (lambda n, y: F.avg_pool2d(y, 3, 2, 1), lambda n, y: F.avg_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 2)),
    "maximum": (
        lambda n, y: n.norm(F.max_pool2d(y, 3, 2, 1)),
        lambda n, y: n.norm(F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 2)),
    ),
    "maximum beside -inf": (
        lambda n, y: n.norm(F.max_pool2d(y - 1, 3, 2, 1)),
        lambda n, y: n.norm(F.max_pool2d(F.pad(y - 1, (1, 1, 1, 1), value=-math.inf), 3, 2)),
    ),
    "shortcut": (
        lambda n, y: n.norm(torch.cat([y[:, :4], y[:, 4:] + y[:, :4]], 1)),
        lambda n, y: n.norm(y + F.pad(y[:, :4], (0, 0, 0, 0, 4, 0))),
    ),
}


@pytest.mark.parametrize("case", POOLED)
def test_padding_of_pools_and_sums(case):
    """Behind a ReLU, whose zeros tie with padding, and in front of a BatchNorm, which lets zeros have relevance."""
    for method in ("excitation", "contrastive", "spread", "positive, spread", "lrp infinity"):
        inside, outside = (Padded(inner=part) for part in POOLED[case])
        expected, got = relevance_of_networks(method, inside, outside)
        assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, expected)), method


def test_constants_are_biases():
    """Padding with another number, and channels of constants: where biases play no part, neither do they."""

    def coordinates(net, y):
        return F.conv2d(
            torch.cat([y, torch.ones_like(y[:, :1])], 1), torch.cat([net.conv.weight, torch.ones(8, 1, 3, 3)], 1)
        )

    def without(net, y):
        return F.conv2d(y, net.conv.weight) + 9

    for method in ("excitation", "spread", "lrp infinity"):
        expected, got = relevance_of_networks(method, Padded(inner=without), Padded(inner=coordinates))
        assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, expected)), method
    for method in ("excitation", "lrp infinity"):
        net, ones = Padded(nn.ConstantPad2d(1, 1.0)), Padded(lambda y: 1 - F.pad(1 - y, (1, 1, 1, 1)))
        expected, got = relevance_of_networks(method, net, ones)
        assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, expected)), method
    (gradient_times_input,) = relevance_of_networks("lrp 0", Padded(nn.ConstantPad2d(1, 1.0)))
    x_gradient = captum.attr.InputXGradient(Padded(nn.ConstantPad2d(1, 1.0)).double().eval())
    torch.manual_seed(3)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert relative_error(gradient_times_input[0], x_gradient.attribute(x, target=1)) < 1e-5


@pytest.mark.parametrize("size", [32, 33])
def test_padding_as_tensorflow_does_it(size):
    """timm's `tf_*` networks pad by F.pad where strides ask for it; with an odd size `padding=` says the same."""
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    same, plain = layers.Conv2dSame(3, 6, 3, stride=2), nn.Conv2d(3, 6, 3, stride=2, padding=1)
    plain.load_state_dict(same.state_dict())
    pad = nn.Identity() if size % 2 else nn.ZeroPad2d((0, 1, 0, 1))
    if not size % 2:
        plain.padding = (0, 0)
    nets = [nn.Sequential(c, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)) for c in (same, plain)]
    nets[1][4].load_state_dict(nets[0][4].state_dict())
    nets[1].insert(0, pad)
    x = torch.randn(1, 3, size, size, dtype=torch.float64)
    for make in (cea.ExcitationBackprop, lambda n: cea.LRP(n, rules={nn.Conv2d: Flat()})):
        got, expected = (make(net.double().eval()).attribute(x, target=1) for net in nets)
        assert relative_error(got, expected) < 1e-9


# Where there is no ReLU, the gradient is the definition


class Spectral(nn.Module):
    def forward(self, x):
        z = torch.stft(x.flatten(1), 8, return_complex=True, window=torch.hann_window(8))
        return (z.abs() ** 2 + 1e-6).log().mean(2)


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x.flatten(2))[0][:, -1]


def _fake_quantised(y):
    y = torch.fake_quantize_per_tensor_affine(y, 0.05, 0, -128, 127)
    return torch.fake_quantize_per_channel_affine(
        y, torch.ones(4) / 20, torch.zeros(4, dtype=torch.int32), 1, -128, 127
    )


WITHOUT_RELUS = {
    **{
        f"{act.__name__}": made(act())
        for act in (nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU, nn.SELU, nn.Softplus)
    },
    "in place": made(lambda y: F.silu(y, inplace=True)),
    "shrinks": made(lambda y: F.softshrink(y) + F.tanhshrink(y)),
    "fake quantisation": made(_fake_quantised),
    "magnitude": made(lambda y: torch.fft.rfft2(y).abs()),
    "spectrogram": Spectral(),
    **{cls.__name__: Last(cls(64, 5, batch_first=True)) for cls in (nn.LSTM, nn.GRU, nn.RNN)},
}


@pytest.mark.parametrize("name", WITHOUT_RELUS)
def test_gated_methods_are_the_gradient_without_relus(name):
    net, x = WITHOUT_RELUS[name].double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    gradient = captum.attr.Saliency(net).attribute(x, target=0, abs=False)
    for method in (cea.GuidedBackprop, cea.Deconvolution):
        assert relative_error(method(net).attribute(x, target=0), gradient) < 1e-6
    assert relative_error(cea.RectGrad(net).attribute(x, target=0), gradient * x) < 1e-6


ALLOWED = torch.tensor([[True, True, False]])


def _ruled_out(q):
    q = q.clone()
    q[~ALLOWED.expand_as(q)] = -math.inf
    return q


ACTION_MASKS = {
    "masked_fill": lambda q: q.masked_fill(~ALLOWED, -math.inf),
    "in place": lambda q: q.masked_fill_(~ALLOWED, -1e9),
    "where": lambda q: torch.where(ALLOWED, q, torch.tensor(-1e8)),
    "where with a number": lambda q: torch.where(ALLOWED, q, -math.inf),
    "where, the other way": lambda q: torch.where(~ALLOWED, torch.finfo(q.dtype).min, q),
    "method": lambda q: q.where(ALLOWED, torch.tensor(-math.inf)),
    "added": lambda q: q + ALLOWED.float().log(),
    "added in place": lambda q: q.add_(ALLOWED.float().log()),
    "assigned": _ruled_out,
}


@pytest.mark.parametrize("method", METHODS)
def test_masked_actions(method):
    """The score of an allowed action is explained as without the mask; one that is ruled out has none to explain."""

    class Policy(nn.Module):
        def __init__(self, mask):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head, self.mask = nn.Linear(4, 8), nn.Linear(8, 3), mask

        def forward(self, x):
            return self.mask(self.head(self.body(x).relu()))

    x = torch.rand(2, 4)
    expected = METHODS[method](Policy(nn.Identity()).eval()).attribute(x, target=1)
    for name, mask in ACTION_MASKS.items():
        net = Policy(mask).eval()
        assert relative_error(METHODS[method](net).attribute(x, target=1), expected) < 1e-5, name
        if torch.isinf(net(x)).any():
            with pytest.raises(ValueError, match="score is NaN or infinite"):
                METHODS[method](net).attribute(x, target=2)
    for rectifier in (lambda q: torch.where(q > 0, q, torch.zeros(())), lambda q: q.masked_fill(q < 0, 0.0)):
        with pytest.raises(ValueError, match=r"rectifier in disguise.*overwrite=True"):
            METHODS[method](Policy(rectifier).eval()).attribute(x, target=1)


@pytest.mark.parametrize("method", METHODS)
def test_graphs_and_exported_programs(method):
    """They run PyTorch's operators themselves: the same map, or an error that says what to take instead."""
    net, x = network("resnet18"), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = METHODS[method](net).attribute(x, target=1)
    graph = torch.fx.symbolic_trace(net)
    assert relative_error(METHODS[method](nn.Sequential(graph)).attribute(x, target=1), expected) < 1e-9
    exported = torch.export.export(net, (x,)).module()
    gated = method in ("guided", "deconvolution", "rectgrad", "rectgrad mod")
    if not gated and any("native_batch_norm" in str(node.target) for node in exported.graph.nodes):  # torch < 2.5
        with pytest.raises(ValueError, match="take the module it was made from"):
            METHODS[method](exported).attribute(x, target=1)
    else:
        assert relative_error(METHODS[method](exported).attribute(x, target=1), expected) < 1e-9
    container = next(name for name, module in graph.named_modules() if name and list(module.children()))
    with pytest.raises(ValueError, match="containers do not run"):
        METHODS[method](graph, container).attribute(x, target=1)


NUMBERS = {
    "epsilon": lambda net, v: cea.LRP(net, epsilon=v),
    "gamma": lambda net, v: cea.LRP(net, gamma=v if v != math.inf else math.nan),
    "percentile": lambda net, v: cea.RectGrad(net, percentile=v),
    "Epsilon": lambda net, v: Epsilon(v),
    "Gamma": lambda net, v: Gamma(v),
    "Gamma's epsilon": lambda net, v: Gamma(1, v),
    "alpha": lambda net, v: AlphaBeta(v, 1),
    "beta": lambda net, v: AlphaBeta(2, v),
    "AlphaBeta's epsilon": lambda net, v: AlphaBeta(2, 1, v),
    "ZBox's epsilon": lambda net, v: ZBox(0, 1, v),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_finite_and_not_negative(name):
    for value in (math.inf, math.nan, -1, -math.inf, True, None, "1"):
        with pytest.raises(ValueError, match=r"expected a .*number that is not negative"):
            NUMBERS[name](SmallNet(), value)
    for low, high in [(math.nan, 1), (-math.inf, 1), (0, math.inf), (torch.tensor([0.0, math.nan]), 1)]:
        with pytest.raises(ValueError, match="is not finite"):
            ZBox(low, high)
