"""What all methods of propagation share: literal references, laws, conventions, real networks."""

import math

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.data.scene_models import build_scene_model
from tests.attr.propagation.cases import METHODS, TARGET, Steps, network, pictures
from tests.conftest import REAL_DATA, SmallNet, needs_real_data, relative_error
from tests.networks import CifarResNet20, lively, shorten
from tests.reference import propagation as reference

FAMILIES = {
    "guided": (cea.GuidedBackprop, {}, reference.guided_rules()),
    "deconvolution": (cea.Deconvolution, {}, reference.deconvolution_rules()),
    "rectgrad": (cea.RectGrad, {"percentile": 70}, reference.rectgrad_rules(70)),
    "rectgrad at 0": (cea.RectGrad, {"percentile": 0}, reference.rectgrad_rules(0)),
    "rectgrad mod": (cea.RectGradMod, {"percentile": 90}, reference.rectgrad_mod_rules(90)),
    "lrp 0": (cea.LRP, {}, reference.lrp_gamma_rules(0, 1e-9)),
    "lrp gamma": (cea.LRP, {"gamma": 0.3, "epsilon": 1e-3, "stabilizer": 1e-3}, reference.lrp_gamma_rules(0.3, 1e-3)),
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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["scene vgg", "resnet18", "cifar resnet20", "scene resnet"])
def test_a_batch_is_its_examples(method, name):
    net = network(name)
    x = pictures(net, 3)[..., :32, :32]
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


def test_the_whole_zoo_of_scene_models():
    for name in ("vgg", "resnet"):
        net = build_scene_model(name).eval()
        for method in METHODS.values():
            maps = method(net, list(cea.default_layers(net).values())).attribute(torch.randn(1, 3, 96, 96), target=3)
            assert all(m.shape[1] == 1 and torch.isfinite(m).all() for m in maps)


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


SMALLEST = {"inception_v3": 75, "alexnet": 63, "maxvit_t": 224}
PATCHES = {"vit_b_16": 16, "vit_b_32": 32, "vit_l_16": 16, "vit_l_32": 32, "vit_h_14": 14}


@pytest.fixture
def built(monkeypatch):
    """Builds networks with weights drawn once and repeated: to draw them all takes longer than to explain them."""
    for name in ("normal_", "trunc_normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda t, *args, **kwargs: t)
    drawn = torch.randn(99_991, generator=torch.Generator().manual_seed(0))

    def build(name, size):
        arguments = {"image_size": size} if name in PATCHES else {}
        if name in ("googlenet", "inception_v3"):
            arguments = {"aux_logits": False, "init_weights": False}
        net = shorten(torchvision.models.get_model(name, weights=None, **arguments))
        for weight in [p for p in net.parameters() if p.ndim > 1]:
            values = drawn.repeat(1 + weight.numel() // len(drawn))[: weight.numel()]
            weight.data = values.mul_(math.sqrt(2 / weight[0].numel())).view(weight.shape)
        return lively(net).requires_grad_(False)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_torchvision_classifier(name, built):
    """LRP and balanced gradients explain each; excitation backprop keeps all it sends, or names attention."""
    size = 2 * PATCHES[name] if name in PATCHES else SMALLEST.get(name, 32)
    net = built(name, size)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    best = net(x).argmax(1)
    for gamma in (0, 0.25):
        relevance = cea.LRP(net, gamma=gamma).attribute(x, target=best)
        assert relevance.isfinite().all()
        assert relevance.any()
    excitation = cea.ExcitationBackprop(net, lost="spread")
    if name.startswith(("vit", "swin", "maxvit")):
        with pytest.raises(ValueError, match=r"ExcitationBackprop has no rule for torch\."):
            excitation.attribute(x, target=best)
    else:
        assert excitation.attribute(x, target=best).sum() == pytest.approx(1, abs=1e-3)
    assert cea.GuidedBackprop(net).attribute(x, target=best).isfinite().all()
    missing = cea.LibraGrad(cea.ActivityAttribution(net, None)).compute_convergence_delta(x, target=best)
    assert (missing / net(x)[0, best]).abs().max() < 1e-3


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
