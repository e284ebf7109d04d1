"""Layers by name, and the default ones of many architectures."""

import types

import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from tests.networks import shorten

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
    if name.startswith("vit_"):
        extra = {"image_size": 4 * int(name.rpartition("_")[2])}  # a grid of 4 x 4 patches
    net = torchvision.models.get_model(name, weights=None, **extra).eval()
    for module in net.modules():  # some heads start at zero, which makes every gradient zero
        if isinstance(module, nn.Linear) and module.weight.abs().max() == 0:
            nn.init.normal_(module.weight, std=0.01)
    return net


def sweep(name, prepare=lambda net: net):
    """All named classes at the default layers: finite, non-zero `N x 1 x *S` maps."""
    net = prepare(build(name))
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


CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name not in DEFAULTS])
def test_every_torchvision_classifier(name):
    assert len(sweep(name, lambda net: shorten(net, 4))) >= 3


def test_every_torchvision_classifier_is_looked_at():
    assert len(CLASSIFIERS) >= 80
    assert set(DEFAULTS) <= set(CLASSIFIERS)


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
@pytest.mark.parametrize("name", TIMM_FAMILIES)
def test_families_of_timm_classifiers(name):
    timm = pytest.importorskip("timm")
    if name not in timm.list_models():
        pytest.skip("another version of timm has it")
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    for module in net.modules():
        if isinstance(module, nn.Linear) and module.weight.abs().max() == 0:
            nn.init.normal_(module.weight, std=0.01)
    layers = cea.default_layers(net)
    maps = cea.NormGrad(net, list(layers)).attribute(torch.randn(1, *net.pretrained_cfg["input_size"]), 3)
    for layer, m in zip(layers, maps):
        assert m.ndim == 4, layer
        assert torch.isfinite(m).all(), layer
        assert m.abs().max() > 0, layer


def test_most_families_of_timm_are_in_the_version_at_hand():
    timm = pytest.importorskip("timm")
    assert len(set(TIMM_FAMILIES) & set(timm.list_models())) >= 40


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


class Branches(nn.Module):
    """Encoders of four stages, and how they meet in the score."""

    def __init__(self, how):
        super().__init__()
        self.how, self.rgb, self.depth = how, encoder(3), encoder(1)
        self.fuse, self.fc = nn.Conv2d(16, 8, 1), nn.Linear(16 if how == "late" else 8, 3)

    def forward(self, x):
        rgb, depth = x[:, :3], x[:, 3:]
        if self.how == "each stage":
            for stages in zip(self.rgb, self.depth):
                rgb, depth = (stage(t) for stage, t in zip(stages, (rgb, depth)))
                rgb = rgb + depth
            return self.fc(rgb.mean((2, 3)))
        if self.how == "in turns":
            for i, (of_rgb, of_depth) in enumerate(zip(self.rgb, self.depth)):
                if i % 2:
                    rgb = of_rgb(rgb)
                depth = of_depth(depth)
                if not i % 2:
                    rgb = of_rgb(rgb)
                rgb, depth = rgb + depth, depth + rgb
            return self.fc((rgb + depth).mean((2, 3)))
        both = torch.cat([self.rgb(rgb), self.depth(depth)], 1)
        return self.fc((both if self.how == "late" else self.fuse(both)).mean((2, 3)))


def encoder(channels, stages=4):
    return nn.Sequential(*(stage(channels if i == 0 else 8) for i in range(stages)))


def stage(channels):
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("late", ["rgb.0", "rgb.1", "rgb.2", "rgb.3"]),
        ("fused", ["rgb.0", "rgb.1", "rgb.2", "fuse"]),
        ("each stage", ["rgb.0", "rgb.1", "rgb.2", "rgb.3"]),
        ("in turns", ["rgb.0", "rgb.1", "rgb.2", "rgb.3"]),
    ],
)
def test_default_layers_are_of_one_branch(how, expected):
    net, x = Branches(how).eval(), torch.randn(1, 4, 64, 64)
    assert list(cea.default_layers(net, x)) == expected
    assert all(m.abs().max() > 0 for m in cea.NormGrad(net, expected).attribute(x, 1))


class Ensemble(nn.Module):
    def __init__(self, *models):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x):
        return torch.stack([model(x) for model in self.models]).mean(0)


def test_default_layers_of_ensembles_are_of_one_member():
    def member(stages):
        return nn.Sequential(encoder(3, stages), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    x = torch.randn(1, 3, 64, 64)
    assert list(cea.default_layers(Ensemble(member(4), member(4)), x)) == [f"models.0.0.{i}" for i in range(4)]
    assert list(cea.default_layers(Ensemble(member(3), member(4)), x)) == [f"models.1.0.{i}" for i in range(4)]
    vits = Ensemble(cea.load_scene_model("vit"), cea.load_scene_model("vit"))
    names = list(cea.default_layers(vits, torch.randn(1, 3, 96, 96)))
    assert names == [f"models.0.blocks.{i}" for i in range(4)]


def test_default_layers_name_what_runs_for_each_of_several_views():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.fc = encoder(3), nn.Linear(8, 3)

        def forward(self, a, b):
            return self.fc(self.encoder(a).mean((2, 3)) - self.encoder(b).mean((2, 3)))

    x = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"runs encoder.* several times.*call=0"):
        cea.default_layers(Siamese(), (x, x))


def test_default_layers_name_parallel_branches_that_make_no_chain():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches, self.fc = nn.ModuleList(stage(3) for _ in range(3)), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(sum(branch(x).mean((2, 3)) for branch in self.branches))

    with pytest.raises(ValueError, match=r"different branches.*'branches.1' is not computed from 'branches.0'"):
        cea.default_layers(Parallel(), torch.randn(1, 3, 32, 32))


class Configured(nn.Module):
    """Takes pictures of one size, which only its `config` tells, as Hugging Face's models do."""

    def __init__(self, image_size, num_channels=3):
        super().__init__()
        self.config = types.SimpleNamespace(image_size=image_size, num_channels=num_channels)
        self.encoder = encoder(num_channels)
        side = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        self.fc = nn.Linear(8 * (side[0] // 16) * (side[1] // 16), 3)

    def forward(self, x):
        return types.SimpleNamespace(logits=self.fc(self.encoder(x).flatten(1)))


@pytest.mark.parametrize("declared", [(96,), ((64, 96),), (48, 1)])
def test_the_size_that_a_config_declares(declared):
    assert list(cea.default_layers(Configured(*declared))) == [f"encoder.{i}" for i in range(4)]


def test_hugging_face_classifiers_declare_their_size():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=(64, 96),
        num_labels=3,
    )
    net = transformers.ViTForImageClassification(config).eval()
    layers = list(cea.default_layers(net).values())  # the last block's patches do not reach the score
    maps = cea.NormGrad(lambda x: net(x).logits, layers).attribute(torch.randn(1, 3, 64, 96), 1)
    assert [tuple(m.shape) for m in maps] == [(1, 1, 4, 6)] * 2


def test_a_video_transformer_s_size_and_places():
    blocks = [
        torchvision.models.video.mvit.MSBlockConfig(
            num_heads=1, input_channels=8, output_channels=8, kernel_q=[3, 3, 3], kernel_kv=[3, 3, 3],
            stride_q=[1, 2, 2] if i == 2 else [1, 1, 1], stride_kv=[1, 1, 1],
        )
        for i in range(4)
    ]  # fmt: skip
    net = torchvision.models.video.MViT(
        spatial_size=(32, 32), temporal_size=4, block_setting=blocks, residual_pool=False, residual_with_cls_embed=True,
        rel_pos_embed=False, proj_after_attn=False, num_classes=3,
    ).eval()  # fmt: skip
    nn.init.normal_(net.head[1].weight)
    layers = cea.default_layers(net)
    assert layers
    for name, maps in zip(layers, cea.NormGrad(net, list(layers)).attribute(torch.randn(1, 3, 4, 32, 32), 1)):
        assert maps.shape[:3] == (1, 1, 2), name
        assert maps.abs().max() > 0


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


class OneReLU(nn.Module):
    """One module for both of its ReLUs."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.relu(self.conv2(self.relu(self.conv1(x)))).mean((2, 3)))


def test_a_relu_that_is_used_twice_hides_no_stage():
    assert list(cea.default_layers(OneReLU().eval())) == ["conv1", "conv2"]
