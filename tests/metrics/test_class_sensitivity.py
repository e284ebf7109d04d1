"""Class sensitivity: the literal definition, shared forwards, any explainer."""

import math

import captum.attr
import pytest
import torch
import torchvision

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import class_sensitivity, null_baseline, spearman
from tests.conftest import SmallNet
from tests.reference import metrics as reference


@pytest.fixture
def net():
    torch.manual_seed(0)
    return SmallNet().double().eval()


@pytest.fixture
def x():
    return torch.randn(4, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_literal_reference(net, x):
    method = cea.LinearApproximation(net, net.conv3)

    def explain(model, one, target):
        return method.attribute(one[None], target=target)[0, 0]

    expected = [reference.class_sensitivity(explain, net, one, reference.spearman) for one in x]
    got = class_sensitivity(method, x, net)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    for batch in (1, 3):
        torch.testing.assert_close(class_sensitivity(method, x, net, max_examples_per_batch=batch), got)
    order = [3, 1, 0, 2]
    torch.testing.assert_close(class_sensitivity(method, x[order], net), got[order])


def test_every_kind_of_explainer(net, x):
    """Objects, their attribute, Captum's own, wrappers, and plain functions."""
    layer = cea.NormGrad(net, net.conv3)
    assert torch.equal(class_sensitivity(layer, x, net), class_sensitivity(layer.attribute, x, net))
    by_hand = lambda inputs, target: layer.attribute(inputs, target=target)  # noqa: E731
    torch.testing.assert_close(class_sensitivity(by_hand, x, net), class_sensitivity(layer, x, net))
    for method in (
        captum.attr.LayerGradCam(net, net.conv3),
        captum.attr.Saliency(net),
        cea.MetaSaliency(layer),
        cea.LayerCombination(cea.NormGrad(net, [net.conv1, net.conv3])),
        cea.LRP(net),
    ):
        values = class_sensitivity(method, x, net)
        assert values.shape == (4,)
        assert (values.abs() <= 1).all()
    deltas = class_sensitivity(captum.attr.Occlusion(net), x, net, sliding_window_shapes=(3, 3, 3), strides=(3, 3, 3))
    assert deltas.shape == (4,)


def test_one_forward_for_both_classes(net, x):
    calls = []
    net.register_forward_hook(lambda *args: calls.append(1))
    class_sensitivity(cea.NormGrad(net, net.conv3), x, net)
    assert len(calls) == 2  # the scores, and the pass of both maps
    calls.clear()
    class_sensitivity(captum.attr.LayerGradCam(net, net.conv3), x, net)
    assert len(calls) > 2


def test_pairs_of_classes(net, x):
    method = cea.LinearApproximation(net, net.conv3)
    pairs = torch.tensor([[0, 1], [2, 2], [4, 3], [1, 0]])
    got = class_sensitivity(method, x, net, classes=pairs)
    assert got[1] == pytest.approx(1)
    maps = method.attribute_per_target(x, pairs)
    expected = [
        spearman(
            torch.nn.functional.interpolate(m[:1], (12, 12), mode="bilinear"),
            torch.nn.functional.interpolate(m[1:], (12, 12), mode="bilinear"),
        )
        for m in maps
    ]
    torch.testing.assert_close(got, torch.cat(expected))
    with pytest.raises(ValueError, match="two class indices for each"):
        class_sensitivity(method, x, net, classes=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="'max_min'"):
        class_sensitivity(method, x, net, classes="min_max")


def test_constant_maps_are_undefined_and_the_null_is_of_the_maps_resolution(net, x):
    constant = lambda inputs, target: torch.ones(len(inputs), 1, 3, 3)  # noqa: E731
    values, null = class_sensitivity(constant, x, net, return_null_baseline=True)
    assert values.isnan().all()
    assert null == null_baseline("spearman", (3, 3), (12, 12))


def test_sensitive_and_insensitive_methods_on_scenes():
    """GradCAM_Pos hardly depends on the class, linear approximation does (Khakzar et al., tables 2 and 4)."""
    model = cea.load_scene_model("vgg")
    images = torch.stack([image for image, _ in cea.DigitScenes(n=8)])
    positive = class_sensitivity(cea.GradCAMPos(model, "features.13"), images, model).mean()
    linear = class_sensitivity(cea.LinearApproximation(model, "features.13"), images, model).abs().mean()
    assert positive > 0.7 > 0.4 > linear


def test_wrong_uses(net, x):
    method = cea.NormGrad(net, net.conv3)
    with pytest.raises(TypeError, match="explanation_func is a str"):
        class_sensitivity("normgrad", x, net)
    with pytest.raises(ValueError, match="expected scores, examples x classes"):
        class_sensitivity(method, x, lambda t: net(t)[:, :, None])
    with pytest.raises(ValueError, match="NaN or infinite"):
        class_sensitivity(method, x * math.nan, net)
    with pytest.raises(ValueError, match="two or more"):
        class_sensitivity(method, x, lambda t: net(t)[:2, 0])
    with pytest.raises(ValueError, match="chooses the classes itself"):
        class_sensitivity(method, x, net, target=1)
    with pytest.raises(ValueError, match="eval mode"):
        class_sensitivity(method, x, SmallNet().double().train())
    with pytest.raises(ValueError, match="max_examples_per_batch"):
        class_sensitivity(method, x, net, max_examples_per_batch=0)
    with pytest.raises(ValueError, match="2 tensors"):
        class_sensitivity(cea.NormGrad(net, [net.conv1, net.conv3]), x, net)
    with pytest.raises(ValueError, match="for 4 examples"):
        class_sensitivity(lambda inputs, target: torch.ones(3), x, net)


def test_progress_bar(net, x, capsys):
    class_sensitivity(cea.NormGrad(net, net.conv3), x, net, show_progress=True)
    assert "Class sensitivity" in capsys.readouterr().err


def test_tokens():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3).eval()
    torch.nn.init.normal_(vit.heads.head.weight)
    layer = next(iter(cea.default_layers(vit)))
    assert class_sensitivity(cea.NormGrad(vit, layer), torch.randn(2, 3, 32, 32), vit).shape == (2,)
