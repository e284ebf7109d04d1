"""Combining layers, and the weights that data give them."""

import json
import warnings

import captum.attr as captum_attr
import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from torch.utils.data import DataLoader, TensorDataset

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.combination import combine_maps
from tests.conftest import relative_error

LAYERS = ["conv1", "relu2", "conv3"]


def scaled(m, size=(12, 12)):
    m = torch.nn.functional.interpolate(m, size, mode="bilinear", align_corners=False)
    rows = []
    for single in m:
        spread = single.max() - single.min()
        rows.append((single - single.min()) / spread if spread > 0 else single * 0)
    return torch.stack(rows)


@pytest.mark.parametrize("mode", ["sum", "product"])
@pytest.mark.parametrize(
    ("weights", "gamma"),
    [
        ("uniform", [1 / 3] * 3),
        ("linear", [1 / 6, 2 / 6, 3 / 6]),
        ([0.2, 0, 0.6], [0.25, 0, 0.75]),
        (np.array([1, 2, 1]), [0.25, 0.5, 0.25]),
        ({"conv3": 1, "conv1": 3, "relu2": 0}, [0.75, 0, 0.25]),
    ],
)
def test_combination_equals_the_definition(small_net, images, mode, weights, gamma):
    small_net, images = small_net.double(), images.double()
    for method in (cea.NormGrad(small_net, LAYERS), cea.LinearApproximation(small_net, LAYERS)):
        maps = [scaled(m) for m in method.attribute(images, [0, 1, 2])]
        if mode == "sum":
            expected = sum(g * m for g, m in zip(gamma, maps))
        else:
            expected = torch.ones_like(maps[0])
            for g, m in zip(gamma, maps):
                expected = expected * m**g
        combination = cea.LayerCombination(method, weights=weights, mode=mode)
        got = combination.attribute(images, [0, 1, 2])
        assert got.shape == (3, 1, 12, 12)
        assert relative_error(got, expected) < 1e-10
        assert not got.requires_grad
        per_target = combination.attribute_per_target(images, [0, 1])
        assert torch.allclose(per_target[:1, 0], got[:1])


def test_captum_s_layer_methods_are_looped_over(small_net, images):
    layers = [small_net.get_submodule(name) for name in LAYERS]
    method = captum_attr.LayerGradCam(small_net, layers)
    combination = cea.LayerCombination(method, weights="linear", mode="sum")
    got = combination.attribute(images, 1, relu_attributions=True)
    maps = [
        scaled(captum_attr.LayerGradCam(small_net, la).attribute(images, 1, relu_attributions=True)) for la in layers
    ]
    assert relative_error(got, sum((j + 1) / 6 * m.detach() for j, m in enumerate(maps))) < 1e-5
    assert method.layer == layers
    assert combination.attribute_per_target(images, [0, 1]).shape == (3, 2, 1, 12, 12)
    with pytest.raises((AssertionError, IndexError)):
        combination.attribute(images, 99)
    assert method.layer == layers  # also after an exception


def test_captum_s_methods_that_explain_no_target(small_net, images):
    layers = [small_net.get_submodule(name) for name in LAYERS]
    combination = cea.LayerCombination(captum_attr.LayerActivation(small_net, layers))
    assert combination.attribute(images).shape == (3, 1, 12, 12)
    with pytest.raises(ValueError, match="expected it left out"):
        combination.attribute(images, 1)
    with_input = cea.LayerCombination(cea.NormGrad(small_net, [None, "conv3"]))
    assert torch.equal(with_input.attribute((images,), 1), with_input.attribute(images, 1))


def test_noise_tunnel_and_together(small_net, images):
    combination = cea.LayerCombination(cea.NormGrad(small_net, LAYERS))
    plain = combination.attribute(images, 1)
    assert torch.allclose(
        NoiseTunnel(combination).attribute(images, nt_samples=2, stdevs=0.0, target=1), plain, atol=1e-6
    )
    assert torch.equal(cea.attribute_together({"it": combination}, images, 1)["it"], plain)
    assert plain.min() >= 0
    assert plain.max() <= 1


class Pooled(torch.nn.Module):
    """Global pooling behind the last layer, where the gradient is the same at every position."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 512, 3, 2)
        self.fc = torch.nn.Linear(512, 4)

    def forward(self, x):
        return self.fc(self.b(self.a(x).relu()).mean((2, 3)))


@pytest.mark.parametrize("name", ["LayerGradient", "GradMid", "GuidedBackprop"])
@pytest.mark.parametrize("weights", ["uniform", [1, 3]])
def test_a_constant_layer_is_the_factor_1_and_adds_0(name, weights):
    torch.manual_seed(0)
    net, x = Pooled().eval(), torch.randn(2, 3, 17, 17)
    method = getattr(cea, name)(net, ["a", "b"])
    first, second = method.attribute(x, 1)
    assert second.flatten(1).std(1).max() < 1e-6 * second.abs().max()  # constant but for rounding
    gamma = 1 / 2 if weights == "uniform" else 1 / 4
    for mode, expected in (("product", scaled(first, (17, 17)) ** gamma), ("sum", gamma * scaled(first, (17, 17)))):
        combination = cea.LayerCombination(method, weights=weights, mode=mode)
        with pytest.warns(UserWarning, match=r"the map of 'b' \(for 2 of 2 examples\) has one value all over"):
            got = combination.attribute(x, 1)
        torch.testing.assert_close(got, expected)
        assert got.flatten(1).amax(1).min() > 0
        with pytest.warns(UserWarning, match="'b'"):
            per_target = combination.attribute_per_target(x, [1, 2])
        torch.testing.assert_close(per_target[:, 0], got)


def test_constant_for_one_example_alone():
    """Layers' maps are looked at per example, and what has no weight is not spoken of."""
    x = torch.randn(3, 1, 4, 4)
    first, second = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    second[1] = 0.3
    for mode in ("product", "sum"):
        with pytest.warns(UserWarning, match="1 of 3"):
            got = combine_maps([first, second], x.shape[2:], (0.5, 0.5), mode, ["a", "b"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            others = combine_maps([first[[0, 2]], second[[0, 2]]], x.shape[2:], (0.5, 0.5), mode, ["a", "b"])
            combine_maps([first, second], x.shape[2:], (1, 0), mode, ["a", "b"])
        assert torch.equal(got[[0, 2]], others)
        alone = scaled(first[1:2], (4, 4))
        torch.testing.assert_close(got[1:2], alone**0.5 if mode == "product" else alone / 2)


def test_where_all_maps_are_constant_the_product_is_1_and_the_sum_0(small_net, images):
    nothing = cea.NormGrad(lambda x: small_net(x) * 0, [small_net.conv1, small_net.conv3])
    for mode, value in (("product", 1), ("sum", 0)):
        with pytest.warns(UserWarning, match="says nothing about positions"):
            got = cea.LayerCombination(nothing, mode=mode).attribute(images, 1)
        assert torch.equal(got, torch.full_like(got, value))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((lambda net: net,), TypeError, "expected a layer method"),
        ((lambda net: cea.NormGrad(net, "conv1"),), ValueError, "built on a list of layers"),
        ((lambda net: cea.CumulativeGradCAM(net, LAYERS),), ValueError, "built on a list of layers"),
        ((lambda net: cea.NormGrad(net, LAYERS), "even"), ValueError, "expected one of 'uniform', 'linear'"),
        ((lambda net: cea.NormGrad(net, LAYERS), [1, 2]), ValueError, "2 numbers for 3 layers"),
        ((lambda net: cea.NormGrad(net, LAYERS), [1, 2, -1]), ValueError, "at least 0"),
        ((lambda net: cea.NormGrad(net, LAYERS), [0, 0, 0]), ValueError, "one above"),
        ((lambda net: cea.NormGrad(net, LAYERS), 3), TypeError, "a number for each layer"),
        ((lambda net: cea.NormGrad(net, LAYERS), None), TypeError, "a number for each layer"),
        ((lambda net: cea.NormGrad(net, LAYERS), ["a", "b", "c"]), TypeError, "a number for each layer"),
        ((lambda net: captum_attr.LayerGradCam(net, []),), ValueError, "built on a list of layers"),
        ((lambda net: cea.NormGrad(net, LAYERS), {"conv1": 1, "conv2": 1, "conv3": 1}), ValueError, "2 of them"),
        ((lambda net: cea.NormGrad(net, LAYERS), "uniform", "max"), ValueError, "expected one of 'product', 'sum'"),
    ],
)
def test_mistakes(small_net, arguments, error, match):
    with pytest.raises(error, match=match):
        cea.LayerCombination(arguments[0](small_net), **dict(zip(("weights", "mode"), arguments[1:])))


def batches(n=24, size=5):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 3, 12, 12, generator=generator), torch.arange(n) % 3
    x[:, 0] += y[:, None, None]
    return DataLoader(TensorDataset(x, y), size), x, y


def test_feature_spread(small_net):
    loader, x, _ = batches()
    weights = cea.feature_spread_weights(small_net, LAYERS, loader, show_progress=False)
    raw = []
    for name in LAYERS:
        kept = captum_attr.LayerActivation(small_net, small_net.get_submodule(name)).attribute(x).mean((2, 3)).double()
        raw.append((kept - kept.mean(0)).abs().mean(0).mean().item())
    assert list(weights.raw.values()) == pytest.approx(raw, rel=1e-5)
    assert list(weights.values()) == pytest.approx([r / sum(raw) for r in raw], rel=1e-5)
    assert weights.images == 24
    single = cea.feature_spread_weights(small_net, LAYERS, [row[None] for row in x], show_progress=False)
    assert list(single.values()) == pytest.approx(list(weights.values()), rel=1e-5)


def test_accuracy(small_net):
    loader, _, _ = batches(120, 16)
    weights = cea.accuracy_weights(small_net, LAYERS, loader, show_progress=False)
    assert weights == cea.accuracy_weights(small_net, LAYERS, loader, show_progress=False)
    assert all(0 <= accuracy <= 1 for accuracy in weights.raw.values())
    assert weights.raw["conv1"] > 0.8  # the first channel's mean tells the class
    assert sum(weights.values()) == pytest.approx(1)
    shuffled = [(x, y[torch.randperm(len(y))]) for x, y in loader]
    chance = cea.accuracy_weights(small_net, LAYERS, shuffled, show_progress=False)
    assert chance.raw["conv1"] < 0.7


def test_weights_print_save_load_and_combine(small_net, images, tmp_path):
    loader, _, _ = batches()
    weights = cea.feature_spread_weights(small_net, LAYERS, loader, show_progress=False)
    lines = str(weights).splitlines()
    assert len(lines) == 4
    assert "feature spread (24 images)" in lines[0]
    weights.save(tmp_path / "weights.json")
    assert json.loads((tmp_path / "weights.json").read_text())["what"] == "feature spread"
    loaded = cea.LayerWeights.load(tmp_path / "weights.json")
    assert loaded == weights
    assert str(loaded) == str(weights)
    combination = cea.LayerCombination(cea.NormGrad(small_net, LAYERS), weights=loaded)
    assert combination.weights == pytest.approx(tuple(weights.values()))
    assert combination.attribute(images, 1).shape == (3, 1, 12, 12)


@pytest.mark.parametrize(
    ("function", "loader", "match"),
    [
        (cea.feature_spread_weights, [], "at least two"),
        (cea.feature_spread_weights, [torch.zeros(4, 3, 12, 12)], "is 0"),
        (cea.feature_spread_weights, iter([torch.randn(4, 3, 12, 12)]), "gone through twice"),
        (cea.feature_spread_weights, ["a"], "batches of tensors"),
        (cea.accuracy_weights, [torch.randn(4, 3, 12, 12)], "no class index"),
        (cea.accuracy_weights, [(torch.randn(4, 3, 12, 12), torch.zeros(4).long())], "at least two classes"),
        (cea.accuracy_weights, [(torch.randn(4, 3, 12, 12), torch.zeros(4, 2))], "one index per image"),
        (cea.accuracy_weights, [(torch.randn(2, 3, 12, 12), ["cat", "dog"])], "expected class indices"),
        (cea.feature_spread_weights, [torch.full((4, 3, 12, 12), torch.nan)], "NaN or infinite"),
        (cea.feature_spread_weights, [()], "batches of tensors"),
    ],
)
def test_mistaken_data(small_net, function, loader, match):
    with pytest.raises((ValueError, TypeError), match=match):
        function(small_net, LAYERS, loader, show_progress=False)


@pytest.mark.parametrize(
    ("layers", "error"),
    [([], ValueError), ([None, "conv1"], ValueError), ("conv1", TypeError), (["conv9"], ValueError)],
)
def test_mistaken_layers(small_net, layers, error):
    loader, _, _ = batches()
    with pytest.raises(error, match="layer"):
        cea.feature_spread_weights(small_net, layers, loader, show_progress=False)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        cea.accuracy_weights(lambda x: small_net(x), LAYERS, loader, show_progress=False)


def test_a_class_with_one_image_may_be_missing_from_the_training_half(small_net):
    loader = [(torch.randn(5, 3, 12, 12), torch.tensor([0, 1, 0, 0, 0]))]
    outcomes = set()
    for seed in range(12):
        try:
            outcomes.add(type(cea.accuracy_weights(small_net, LAYERS, loader, seed=seed, show_progress=False)))
        except ValueError as error:
            outcomes.add("left to train on" in str(error))
    assert outcomes == {cea.LayerWeights, True}


def test_weights_leave_the_model_as_it_was(small_net):
    loader, _, _ = batches()
    before = {key: value.clone() for key, value in small_net.state_dict().items()}
    cea.accuracy_weights(small_net, LAYERS, loader, show_progress=False)
    assert all(torch.equal(before[key], value) for key, value in small_net.state_dict().items())
    assert all(p.requires_grad for p in small_net.parameters())
    assert all(not m._forward_hooks for m in small_net.modules())


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_the_virtual_identity_changes_little(name):
    """R20, appendix B: .94 to .995 on ResNet-50 and VGG-16."""
    from scipy.stats import spearmanr

    net = cea.load_scene_model(name)
    layers = {
        "vgg": ["features.2", "features.7", "features.12", "features.17"],
        "resnet": [f"layer{i}.conv1" for i in range(1, 5)],
    }[name]
    scenes = [cea.DigitScenes(16, seed=4)[i] for i in range(16)]
    images = torch.stack([image for image, _ in scenes])
    labels = [int(target["labels"][0]) for _, target in scenes]
    agreement = cea.virtual_identity_agreement(net, layers, images, labels)
    assert agreement.shape == (4, 16)
    print(name, [f"{row.mean():.3f} +- {row.std():.3f}" for row in agreement])
    assert agreement.mean() > 0.85
    virtual = cea.NormGrad(net, layers[2]).attribute(images[:1], labels[0])
    real = cea.NormGrad(net, layers[2], virtual_identity=False).attribute(images[:1], labels[0])
    assert agreement[2, 0] == pytest.approx(spearmanr(virtual.flatten(), real.flatten())[0], abs=1e-9)
    constant = cea.virtual_identity_agreement(lambda x: net(x) * 0, [net.get_submodule(layers[0])], images[:1], 1)
    assert constant.isnan().all()


def test_combinations_share_the_pass_of_their_methods(small_net, images):
    forwards = []
    handle = small_net.register_forward_hook(lambda *_: forwards.append(1))
    normgrad = cea.NormGrad(small_net, LAYERS)
    methods = {
        "plain": normgrad,
        "product": cea.LayerCombination(normgrad),
        "sum": cea.LayerCombination(cea.LinearApproximation(small_net, LAYERS), weights="linear", mode="sum"),
    }
    found = cea.attribute_together_per_target(methods, images, [0, 1])
    assert len(forwards) == 1
    handle.remove()
    for maps, target in zip(found, [0, 1]):
        for name in ("product", "sum"):
            assert torch.equal(maps[name], methods[name].attribute(images, target=target))
    layers = [small_net.get_submodule(name) for name in LAYERS]
    captums = cea.LayerCombination(captum_attr.LayerGradCam(small_net, layers))
    (together,) = cea.attribute_together({"Captum's": captums}, images, 1).values()
    assert torch.equal(together, captums.attribute(images, 1))


@pytest.fixture
def divisions(monkeypatch):
    """The classes of the images trained on and held out, for each call of accuracy_weights."""
    import sklearn.model_selection

    found, plain = [], sklearn.model_selection.train_test_split

    def split(indices, stratify=None, **kwargs):
        train, test = plain(indices, stratify=stratify, **kwargs)
        found.append((train, test))
        return train, test

    monkeypatch.setattr(sklearn.model_selection, "train_test_split", split)
    return found


def labelled(labels):
    x = torch.randn(len(labels), 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return [(x + torch.tensor(labels).reshape(-1, 1, 1, 1), torch.tensor(labels))]


def test_each_class_is_divided_alike(small_net, divisions):
    """Of a class of two one image is held out, whatever the seed."""
    labels = [0] * 2 + [1] * 18
    for seed in range(6):
        cea.accuracy_weights(small_net, ["conv3"], labelled(labels), 0.5, seed, show_progress=False)
    assert [[labels[i] for i in part].count(0) for parts in divisions for part in parts] == [1] * 12


def test_a_class_of_one_image_cannot_be_divided_but_the_others_can(small_net, divisions):
    labels = [0] + [1] * 8 + [2] * 8
    for seed in range(6):
        weights = cea.accuracy_weights(small_net, ["conv1", "conv3"], labelled(labels), 0.5, seed, show_progress=False)
        assert sum(weights.values()) == pytest.approx(1)
    sides = [0 in [labels[i] for i in train] for train, _ in divisions]
    assert set(sides) == {False, True}  # by chance, on either side
