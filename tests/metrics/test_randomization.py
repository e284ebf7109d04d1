"""Parameter randomisation: the literal definition, the model's return, what untrained and insensitive methods give."""

import copy
import itertools

import captum.attr
import matplotlib.pyplot as plt
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import null_baseline, parameter_randomization
from tests.faults import InjectedError, prepared, snapshot
from tests.networks import Encoder
from tests.reference import metrics as reference


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_literal_reference(small_net, images, order):
    """With the same random numbers, stage by stage."""
    net, x = small_net.double(), images.double()
    draw = reference.normal_draw(net, seed=3)
    names = {m: name for name, m in net.named_modules()}

    def init(module):
        for key, p in module.named_parameters(recurse=False):
            p.copy_(draw(f"{names[module]}.{key}"))

    got = parameter_randomization(cea.NormGrad(net, net.conv3), net, x, target=1, order=order, init=init)
    for i, one in enumerate(x):
        explain = lambda model, example, target: cea.NormGrad(model, "conv3").attribute(example[None], target)[0, 0]  # noqa: E731
        make = lambda: copy.deepcopy(net)  # noqa: E731
        expected = reference.parameter_randomization(explain, make, one, 1, order, draw, reference.spearman)
        assert got.stages == tuple(name for name, _ in expected)
        torch.testing.assert_close(
            got.values[:, i], torch.tensor([v for _, v in expected], dtype=torch.float64), rtol=1e-8, atol=1e-10
        )
    assert got.stages == ("fc", "conv3", "bn", "conv2", "conv1")
    assert got.order == order


def test_matched_parameters_have_the_mean_and_deviation_that_they_had():
    """A parameter of one number stays: nothing is known of its spread."""
    layer = nn.Conv2d(8, 64, 5)
    with torch.no_grad():
        layer.weight.mul_(7).add_(3)
    single = nn.Linear(1, 1)
    drawn = []

    def explain(x, target=None):
        weight = layer.weight.detach()
        drawn.append((float(weight.mean()), float(weight.std()), float(single.weight), float(weight.flatten()[0])))
        return x

    net = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1), single)
    parameter_randomization(explain, net, torch.rand(2, 8, 6, 6), init="matched", layers=[layer, single])
    before, *_, after = drawn
    assert after[0] == pytest.approx(before[0], abs=0.05)
    assert after[1] == pytest.approx(before[1], rel=0.05)
    assert after[2] == before[2]
    assert after[3] != before[3]


@pytest.mark.parametrize(
    "init", ["normal", "reset", "matched", lambda module: [p.zero_() for p in module.parameters()]]
)
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_the_model_comes_back(init, order):
    net, x = prepared()
    before = snapshot(net, x)
    method = cea.NormGrad(net, net.conv3)
    first = parameter_randomization(method, net, x, 1, order, init, n_seeds=2)
    assert snapshot(net, x) == before
    second = parameter_randomization(method, net, x, 1, order, init, n_seeds=2)
    torch.testing.assert_close(first.values, second.values, equal_nan=True)
    assert first.per_seed.shape == (5, 2, 2)


@pytest.mark.parametrize(("init", "deviation"), [("normal", 0.01), ("normal_variance", 0.1)])
def test_both_readings_of_the_published_distribution(init, deviation):
    """N(0, 0.01) as a deviation and as a variance: the same draws, ten times larger."""
    net, x = prepared()
    seen = []

    def explain(inputs, target):
        seen.append(net.conv2.weight.detach().clone())
        return cea.NormGrad(net, net.conv3).attribute(inputs, target)

    parameter_randomization(explain, net, x, 1, layers=["conv2"], init=init)
    torch.testing.assert_close(float(seen[-1].std()), deviation, rtol=0.2, atol=0)
    assert abs(float(seen[-1].mean())) < 0.2 * deviation


@pytest.mark.parametrize("error", [InjectedError(), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["explain", "init"])
def test_faults(error, where):
    net, x = prepared()
    before = snapshot(net, x)
    count = itertools.count()

    def explain(inputs, target):
        if where == "explain" and next(count) == 3:
            raise error
        return cea.NormGrad(net, net.conv3).attribute(inputs, target)

    def init(module):
        nn.init.normal_(next(module.parameters()))
        if where == "init" and next(count) == 2:
            raise error

    with pytest.raises(type(error)):
        parameter_randomization(explain, net, x, 1, init=init)
    assert snapshot(net, x) == before


def test_seeds_and_blocks():
    model = cea.load_scene_model("resnet")
    images = torch.stack([image for image, _ in cea.DigitScenes(n=3)])
    method = cea.LinearApproximation(model, "layer2")
    blocks = ["layer4", "fc", model.layer3]
    result = parameter_randomization(method, model, images, 7, layers=blocks, n_seeds=3, seed=5)
    assert result.stages == ("fc", "layer4", "layer3")
    singles = [parameter_randomization(method, model, images, 7, layers=blocks, seed=s) for s in (5, 6, 7)]
    torch.testing.assert_close(result.per_seed, torch.stack([s.values for s in singles], 1))
    torch.testing.assert_close(result.values, result.per_seed.nanmean(1))
    assert not torch.equal(singles[0].values, singles[1].values)
    assert len(result.records()) == 9
    assert result.records()[4] == {
        "stage": 1, "layer": "layer4", "example": 1, "order": "cascading", "spearman": result.values[1, 1].item(),
    }  # fmt: skip


def test_a_map_that_does_not_look_at_the_model_stays_and_a_sensitive_one_falls_to_the_null():
    model = cea.load_scene_model("resnet")
    images = torch.stack([image for image, _ in cea.DigitScenes(n=6)])
    edges = lambda inputs, target=None: inputs.diff(dim=3).abs().sum(1, keepdim=True)  # noqa: E731
    stays = parameter_randomization(edges, model, images, 7, layers=["fc", "layer4"])
    torch.testing.assert_close(stays.values, torch.ones(2, 6, dtype=torch.float64))
    falls = parameter_randomization(
        cea.LinearApproximation(model, "layer3"), model, images, 7, layers=["fc", "layer4", "layer3"], n_seeds=4
    )
    null = null_baseline("spearman", (24, 24), (96, 96))
    assert (falls.mean()[-1] - null.mean).abs() < 3 * null.std
    assert falls.mean()[-1].abs() < 0.3


def test_undefined_is_counted_and_plotted(small_net, images):
    zero = lambda module: [p.zero_() for p in module.parameters(recurse=False)]  # noqa: E731
    result = parameter_randomization(cea.NormGrad(small_net, "conv3"), small_net, images, 1, init=zero)
    assert result.undefined().tolist() == [3] * 5
    assert result.mean().isnan().all()
    fine = parameter_randomization(cea.NormGrad(small_net, "conv3"), small_net, images, 1)
    ax = fine.plot(label="NormGrad")
    assert [t.get_text() for t in ax.get_xticklabels()] == list(fine.stages)
    assert len(ax.lines[0].get_xdata()) == 5
    plt.close(ax.figure)


def test_captum_s_methods_other_similarities_and_shared_layers(images):
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=5).eval()
    x = torch.nn.functional.interpolate(images, (64, 64))
    blocks = ["fc", "layer4", "layer1"]
    for method in (captum.attr.LayerGradCam(net, net.layer3), captum.attr.InputXGradient(net)):
        for similarity in ("abs_spearman", "hog_spearman", "ssim"):
            result = parameter_randomization(method, net, x, 1, layers=blocks, similarity=similarity)
            assert result.values.shape == (3, 3)
            assert result.similarity == similarity


def test_wrong_uses(small_net, images, capsys):
    method = cea.NormGrad(small_net, "conv3")
    for arguments, message in (
        ({"order": "cascade"}, "did you mean 'cascading'"),
        ({"init": "zeros"}, "init is 'zeros'"),
        ({"n_seeds": 0}, "n_seeds is 0"),
        ({"layers": ["conv9"]}, "did you mean"),
        ({"layers": ["conv1", "conv1"]}, "holds one twice"),
        ({"layers": ["relu1"]}, "'relu1' holds no parameters"),
        ({"layers": []}, "holds no parameters"),
        ({"similarity": "cosine"}, "similarity is 'cosine'"),
    ):
        with pytest.raises(ValueError, match=message):
            parameter_randomization(method, small_net, images, 1, **arguments)
    with pytest.raises(TypeError, match=r"expected the torch\.nn\.Module"):
        parameter_randomization(method, lambda x: x, images, 1)
    parameter_randomization(method, small_net, images, 1, layers=["fc"], show_progress=True)
    assert "Parameter randomization" in capsys.readouterr().err


def test_stages_of_attention_parametrised_and_idle_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, 4)
            self.a1, self.l1 = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)
            self.a2, self.fc = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)
            self.auxiliary = nn.Linear(8, 2)
            nn.utils.parametrizations.weight_norm(self.l1)

        def forward(self, x):
            t = self.stem(x).flatten(2).mT
            t = t + self.a1(t, t, t)[0]
            t = self.l1(t).relu()
            t = t + self.a2(t, t, t)[0]
            return self.fc(t.mean(1))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 16, 16)
    before = {name: p.clone() for name, p in net.named_parameters()}
    result = parameter_randomization(captum.attr.Saliency(net), net, x, target=1)
    assert result.stages == ("fc", "a2", "l1", "a1", "stem")
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    changed = []
    parameter_randomization(
        captum.attr.Saliency(net), net, x, 1, layers=["a2"], init=lambda m: changed.append(type(m).__name__)
    )
    assert changed == ["MultiheadAttention", "NonDynamicallyQuantizableLinear"]
    with pytest.raises(ValueError, match="never run"):
        parameter_randomization(captum.attr.Saliency(net), net, x, 1, layers=["auxiliary"])
    with pytest.raises(ValueError, match="eval mode"):
        parameter_randomization(captum.attr.Saliency(net), torchvision.models.resnet18().train(), x, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.random_unstructured(layer, "weight", amount=0.3),
        lambda layer: prune.random_unstructured(layer, "bias", amount=0.3),
        torch.nn.utils.spectral_norm,
    ],
)
def test_weights_that_are_computed_anew_cannot_be_reset(change, small_net, images):
    change(small_net.conv1)
    small_net.eval()(images)
    method = cea.LinearApproximation(small_net, "conv2")
    with pytest.raises(ValueError, match=r"of a Conv2d is computed anew .* expected init='normal'"):
        parameter_randomization(method, small_net, images, target=1, init="reset", layers=["conv1"])
    result = parameter_randomization(method, small_net, images, target=1, layers=["conv1"])
    assert float(result.values.max()) < 0.99


def test_one_example_tells_the_order_of_the_layers(small_net, images):
    """Unless the network takes no single one, or leaves a layer out for it."""

    class Whole(torch.nn.Module):
        def __init__(self, refuses):
            super().__init__()
            self.net, self.odd, self.refuses, self.sizes = small_net, torch.nn.Linear(3, 3), refuses, []

        def forward(self, x):
            self.sizes.append(len(x))
            if self.refuses and len(x) == 1:
                raise RuntimeError("a batch, please")
            scores = self.net(x)
            return self.odd(scores[:, :3]) if len(x) > 1 else scores[:, :3]

    def explain(x, target):
        return torch.rand(len(x), 1, 8, 8, generator=torch.Generator().manual_seed(0))

    for refuses in (True, False):
        model = Whole(refuses)
        assert parameter_randomization(explain, model, images, target=1).stages[0] == "odd"
        assert model.sizes == [1, len(images)]
    sizes = []
    handle = small_net.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    parameter_randomization(explain, small_net, images, target=1)
    handle.remove()
    assert sizes == [1]


def test_a_fused_encoder_hides_no_layers():
    """PyTorch runs whole encoder layers as one where no gradients are asked for."""

    torch.manual_seed(0)
    model = Encoder().eval()
    method = captum.attr.FeatureAblation(model)  # which asks for none
    stages = parameter_randomization(method, model, torch.randn(2, 5, 4), target=1, layout="channels_last").stages
    assert stages[0] == "head"
    assert stages[-1] == "embed"
    assert {name for name, m in model.named_modules() if isinstance(m, nn.LayerNorm)} < set(stages)
