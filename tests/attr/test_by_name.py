"""Methods by name: this package's, Captum's and a user's own, wherever a name is taken."""

import captum.attr
import pytest
import torch
import torchvision
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import METHODS, find_method, make_method
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.evaluation import plan_from, run
from captum_extract_aggregate.evaluation.methods import make_ready
from captum_extract_aggregate.registry import list_methods, register_method, unregister_method

OWN = """
from captum.attr import LayerAttribution, LayerGradientXActivation
import captum_extract_aggregate as cea

class TopChannels(LayerAttribution):
    "The sum of the strongest channels: a class as Captum's, of one layer."
    def __init__(self, forward_func, layer, k=2):
        super().__init__(forward_func, layer)
        self.k = k

    def attribute(self, inputs, target=None, additional_forward_args=None):
        products = LayerGradientXActivation(self.forward_func, self.layer)
        found = products.attribute(inputs, target, additional_forward_args)
        return found.topk(self.k, dim=1).values.sum(1, keepdim=True).detach()

class Doubled(cea.LinearApproximation):
    "A class of lists of layers, on one of the package's own."
    def attribute(self, *args, **kwargs):
        maps = super().attribute(*args, **kwargs)
        return [2 * m for m in maps] if isinstance(maps, list) else 2 * maps

def top_three(model, layers, k=3):
    return TopChannels(model, layers[0], k)
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GradCAM", cea.GradCAM),
        ("gradcam", cea.GradCAM),
        ("GRADCAM", cea.GradCAM),
        ("normgrad", cea.NormGrad),
        ("layergradient", cea.LayerGradient),
        ("GradCAMPlusPlus", cea.GradCAMPlusPlus),
        ("LayerGradCam", captum.attr.LayerGradCam),
        ("layergradcam", captum.attr.LayerGradCam),
        ("captum:LayerGradCam", captum.attr.LayerGradCam),
        ("captum:GuidedBackprop", captum.attr.GuidedBackprop),
        ("GuidedBackprop", cea.GuidedBackprop),  # this package's comes first
    ],
)
def test_class_names_stand_beside_short_ones(name, meant):
    assert find_method(name).make is meant


def test_every_name_and_class_is_found(small_net, images):
    layers = [small_net.conv2, small_net.conv3]
    for name in list_methods():
        if METHODS[name].needs_layers:
            continue
        maps = make_method(name.upper(), small_net, layers).attribute(images[:1], target=1)
        assert isinstance(maps, list) is not METHODS[name].joins_layers, name


@pytest.mark.parametrize("name", ["gradcm", "LayerGradCm", "nowhere.py:Mine", "captum:LayerGradCm"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"unknown|there is no file"):
        find_method(name)


def test_a_class_of_one_s_own_by_its_file(own, small_net, images):
    one = make_method(f"{own}:TopChannels", small_net, [small_net.conv2], k=1).attribute(images, target=1)
    products = captum.attr.LayerGradientXActivation(small_net, small_net.conv2).attribute(images, target=1)
    torch.testing.assert_close(one, products.amax(1, keepdim=True).detach())
    layers = [small_net.conv2, small_net.conv3]
    several = make_method(f"{own}:TopChannels", small_net, layers, k=1).attribute(images, target=1)
    assert torch.equal(several[0], one)
    doubled = make_method(f"{own}:Doubled", small_net, layers).attribute(images, target=1)
    for got, single in zip(doubled, cea.LinearApproximation(small_net, layers).attribute(images, target=1)):
        assert torch.equal(got, 2 * single)
    assert make_method(f"{own}:top_three", small_net, layers).attribute(images, target=1).shape == one.shape


def test_the_file_is_executed_once_and_again_when_it_changes(own, small_net):
    first = find_method(f"{own}:TopChannels").make
    assert find_method(f"{own}:TopChannels").make is first
    own.write_text(OWN + "\n# changed\n")
    assert find_method(f"{own}:TopChannels").make is not first


@pytest.mark.parametrize("name", ["TopChannels", "Doubled"])
def test_one_s_own_in_company(own, name, small_net, images):
    layers = [small_net.conv2, small_net.conv3]
    mine = make_method(f"{own}:{name}", small_net, layers)
    alone = mine.attribute(images, target=1)
    together = cea.attribute_together({"mine": mine, "normgrad": cea.NormGrad(small_net, layers)}, images, target=1)
    for got, expected in zip(together["mine"], alone):
        assert torch.equal(got, expected)
    assert cea.LayerCombination(mine).attribute(images, target=1).shape[2:] == images.shape[2:]
    still = cea.MetaSaliency(mine, lr=0.0).attribute(images, target=1)
    for got, expected in zip(still, alone):
        torch.testing.assert_close(got, expected)


def plan(method):
    return plan_from(
        {
            "methods": [{"method": method, "layers": ["layer2", "layer3"], "combine": [{}]}, {"method": "normgrad"}],
            "measures": [{"measure": "class_sensitivity"}],
            "data": {"n": 2},
        }
    )


def marks(of):
    """What tells results of one code from those of another."""
    return make_ready(of.methods[0], (), cea.load_scene_model("resnet")).marks()


@pytest.mark.parametrize("name", ["TopChannels", "Doubled"])
def test_one_s_own_in_plans(own, name, tmp_path):
    made = plan(f"{own}:{name}")
    results, before = run(made, tmp_path / "results", show_progress=False), marks(made)
    assert {(m.method.rpartition(":")[2], m.layer) for m in results.maps()} >= {(name, "layer2"), (name, "layer3")}
    own.write_text(OWN.replace("k=2", "k=1").replace("2 *", "3 *"))  # another method now, whose numbers are not these
    assert set(marks(made)) == set(before)
    assert not set(marks(made).values()) & set(before.values())
    run(made, tmp_path / "results", show_progress=False)


def test_a_registered_method_is_one_like_the_others(own, tmp_path, small_net, images):
    register_method("mine")(find_method(f"{own}:TopChannels").make)
    try:
        assert list_methods()[-1] == "mine"
        with pytest.raises(ValueError, match="'mine', which is taken"):
            register_method("mine")
        assert torch.equal(
            make_method("TopChannels", small_net, [small_net.conv2]).attribute(images, target=1),
            make_method("mine", small_net, [small_net.conv2]).attribute(images, target=1),
        )
        run(plan("mine"), tmp_path / "results", show_progress=False)
        result = CliRunner().invoke(app, ["explain", "--methods", "mine", "--output", str(tmp_path / "a.png")])
        assert result.exit_code == 0, result.output
        from captum_extract_aggregate.insights.offered import names

        assert "mine" in names()
    finally:
        unregister_method("mine")
    with pytest.raises(ValueError, match="'mine', which is unknown"):
        find_method("mine")


def test_one_s_own_on_the_command_line(own, tmp_path):
    result = CliRunner().invoke(
        app, ["explain", "--methods", f"{own}:TopChannels,GradCAM,LayerGradCam", "--output", str(tmp_path / "a.png")]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_what_was_overwritten_comes_back():
    register_method("gradcam", overwrite=True)(cea.NormGrad)
    assert find_method("GradCAM").make is cea.NormGrad or find_method("gradcam").make is cea.NormGrad
    unregister_method("gradcam")
    assert find_method("gradcam").make is cea.GradCAM


def test_layers_of_a_kind():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 7, 2, 16, 32).eval()
    x = torch.rand(1, 3, 32, 32)
    attention = list(cea.attention_layers(vit, x))
    assert list(find_method("legrad").suited_layers(vit, x, 5)) == attention  # which it joins
    evenly = find_method("gradient-weighted-attention").suited_layers(vit, x, 5)
    assert list(evenly) == [attention[i] for i in (0, 2, 3, 4, 6)]
    assert list(find_method("bias").suited_layers(vit, x))[:2] == ["conv_proj", "encoder.layers.encoder_layer_0.ln_1"]
    assert find_method("gradcam").suited_layers(vit, x) is None
