"""Layers by name, and the default ones of many architectures."""

import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.layers import find_layer, model_of

DEFAULTS = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "vgg11": ["features.1", "features.4", "features.9", "features.14", "features.19"],
    "squeezenet1_1": ["features.4", "features.7", "features.12"],
    "mobilenet_v2": ["features.1", "features.3", "features.6", "features.13", "features.18"],
    "densenet121": ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features.norm5"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "swin_t": ["features.1", "features.3", "features.5", "norm"],
    "vit_b_32": [f"encoder.layers.encoder_layer_{i}" for i in range(11)],
}
_SIZES = {"inception_v3": 299, "maxvit_t": 224}


# A positive part of a signed sum may be 0 everywhere, and a constant map is scaled to 0.
MAY_VANISH = (cea.GradCAM, cea.GradCAMPlusPlus, cea.CumulativeGradCAM, cea.CumulativeGradMid, cea.AggregatedActivity)


def build(name):
    torch.manual_seed(0)
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(name, weights=None, **extra).eval()
    for module in net.modules():  # some heads start at zero, which makes every gradient zero
        if isinstance(module, nn.Linear) and module.weight.abs().max() == 0:
            nn.init.normal_(module.weight, std=0.01)
    return net


def sweep(name):
    """All named classes at the default layers: finite, non-zero `N x 1 x *S` maps."""
    net = build(name)
    side = getattr(net, "image_size", None) or _SIZES.get(name, 96)
    layers = cea.default_layers(net)
    methods = {
        m.__name__: m(net, list(layers.values()))
        for m in (cea.NormGrad, cea.SelectiveNormGrad, cea.LinearApproximation, cea.LayerGradient)
    }
    listed = list(layers.values())
    methods |= {m.__name__: m(net, listed) for m in (cea.GradCAMPos, cea.GradMid, cea.ActivityAttribution)}
    methods |= {m.__name__: m(net, listed) for m in MAY_VANISH}
    methods |= {"FullGrad": cea.FullGrad(net), "combined": cea.LayerCombination(cea.NormGrad(net, listed))}
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    maps = cea.attribute_together(methods, x, target=[3, 7])
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    for method, of_method in maps.items():
        by_layer = dict(zip(layers, of_method)) if isinstance(of_method, list) else {"all": of_method}
        for layer, m in by_layer.items():
            assert m.shape[:2] == (2, 1), (method, layer)
            assert m.ndim == 4, (method, layer)
            assert torch.isfinite(m).all(), (method, layer)
            vanishes = method in {cls.__name__ for cls in MAY_VANISH}
            assert vanishes or (m.flatten(1).abs().amax(1) > 0).all(), (method, layer)
            assert isinstance(of_method, list) or m.shape[2:] == x.shape[2:]
    return layers


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_layers_and_maps_of_common_architectures(name):
    assert list(sweep(name)) == DEFAULTS[name]


@pytest.mark.slow
def test_every_torchvision_classifier():
    names = torchvision.models.list_models(module=torchvision.models)
    for name in names:
        assert len(sweep(name)) >= 3, name
    print(f"{len(names)} torchvision classifiers, all named classes")
    assert len(names) >= 80


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("vit_tiny_patch16_224", [f"blocks.{i}" for i in range(11)]),
        ("convnext_atto", [f"stages.{i}" for i in range(4)]),
        ("mixer_s32_224", [f"blocks.{i}" for i in range(8)]),
        ("swin_tiny_patch4_window7_224", ["layers.0", "layers.1", "layers.2", "norm"]),
    ],
)
def test_timm_classifiers(name, expected):
    timm = pytest.importorskip("timm")
    net = timm.create_model(name, pretrained=False).eval()
    layers = cea.default_layers(net)
    assert list(layers) == expected
    side = net.pretrained_cfg["input_size"][-1]
    for m in cea.NormGrad(net, list(layers)).attribute(torch.randn(1, 3, side, side), 3):
        assert m.ndim == 4
        assert torch.isfinite(m).all()


TIMM_FAMILIES = """
cait_xxs24_224 coat_lite_tiny coatnet_nano_rw_224 convit_tiny convmixer_768_32 convnext_atto davit_tiny
deit_tiny_distilled_patch16_224 densenet121 dla34 dpn48b edgenext_xx_small efficientformer_l1 efficientnet_b0
eva02_tiny_patch14_224 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_100 gmlp_ti16_224 inception_v4 levit_128s
mambaout_femto maxvit_nano_rw_256 mixer_s32_224 mobilenetv3_small_050 mobilevit_xxs mvitv2_tiny nest_tiny nfnet_f0
pit_ti_224 poolformer_s12 pvt_v2_b0 regnety_002 repvgg_a0 res2net50_26w_4s resmlp_12_224 resnetv2_50 rexnet_100
selecsls42 sequencer2d_s skresnet18 starnet_s1 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 tiny_vit_5m_224
twins_svt_small vgg11 visformer_tiny vit_small_patch16_dinov3 vit_tiny_patch16_224 volo_d1_224 xception41
xcit_nano_12_p16_224
""".split()


@pytest.mark.slow
def test_families_of_timm_classifiers():
    timm = pytest.importorskip("timm")
    known, count = set(timm.list_models()), 0
    for name in TIMM_FAMILIES:
        if name not in known:
            continue  # an older or newer timm
        torch.manual_seed(0)
        net = timm.create_model(name).eval()
        for module in net.modules():
            if isinstance(module, nn.Linear) and module.weight.abs().max() == 0:
                nn.init.normal_(module.weight, std=0.01)
        layers = cea.default_layers(net)
        for layer, m in zip(
            layers, cea.NormGrad(net, list(layers)).attribute(torch.randn(1, *net.pretrained_cfg["input_size"]), 3)
        ):
            assert m.ndim == 4, (name, layer)
            assert torch.isfinite(m).all(), (name, layer)
            assert m.abs().max() > 0, (name, layer)
        count += 1
    print(f"{count} families of timm classifiers")
    assert count >= 40


def test_video_classifier():
    net = torchvision.models.video.r3d_18().eval()
    layers = cea.default_layers(net)
    assert list(layers) == ["layer1", "layer2", "layer3", "layer4"]
    maps = cea.NormGrad(net, list(layers)).attribute(torch.randn(1, 3, 8, 32, 32), 3)
    assert [m.ndim for m in maps] == [5] * 4


@pytest.mark.parametrize("name", ["vgg", "resnet", "vit"])
def test_scene_networks(name):
    expected = {
        "vgg": [f"features.{i}" for i in (3, 8, 13, 18)],
        "resnet": [f"layer{i}" for i in range(1, 5)],
        "vit": [f"blocks.{i}" for i in range(4)],  # the last: only the class token reaches the score
    }
    assert list(cea.default_layers(cea.load_scene_model(name))) == expected[name]


def test_default_layers_leave_the_model_as_it_was():
    net = torchvision.models.resnet18().train()
    net.layer2.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    flags = [m.training for m in net.modules()]
    state = torch.get_rng_state()
    cea.default_layers(net)
    assert flags == [m.training for m in net.modules()]
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_default_layers_with_an_example_batch(small_net):
    assert next(iter(cea.default_layers(small_net, torch.zeros(1, 3, 12, 12)))) == "relu2"
    with pytest.raises(ValueError, match="expected inputs="):
        cea.default_layers(small_net, torch.zeros(1, 4, 12, 12))


def test_layers_by_name(small_net):
    assert find_layer("conv1", small_net) is small_net.conv1
    assert find_layer("conv1", small_net.forward) is small_net.conv1
    assert find_layer(small_net.conv1, small_net) is small_net.conv1
    assert find_layer(None, small_net) is None
    with pytest.raises(ValueError, match=r"'conv4'.*did you mean 'conv"):
        find_layer("conv4", small_net)
    with pytest.raises(TypeError, match="not a model to look"):
        find_layer("conv1", lambda x: small_net(x))
    assert model_of(small_net.forward) is small_net
    assert model_of(len) is None
