"""Attention weights as a place, LeGrad, gradient-weighted attention and rollout."""

import copy

import pytest
import torch
import torchvision
from captum.attr import LayerAttribution
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.attention import AttentionAttribution
from captum_extract_aggregate.attr.by_name import make_method
from tests.conftest import needs_indexing
from tests.reference import attention as reference

BLOCKS = [0, 1, 2]


def name(block):
    return f"encoder.layers.encoder_layer_{block}.self_attention"


@pytest.fixture
def vit():
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).double().eval()
    nn.init.normal_(net.heads.head.weight)
    return net


@pytest.fixture
def x():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(got, expected):
    assert expected.abs().max() > 0
    assert (got - expected).abs().max() / expected.abs().max() < 1e-8


@pytest.mark.parametrize("blocks", [[0], [2], [0, 1, 2]])
def test_legrad_is_its_definition(vit, x, blocks):
    same(cea.LeGrad(vit, list(map(name, blocks))).attribute(x, 3), reference.legrad(vit, x, 3, blocks))


def test_gradient_weighted_attention_is_its_definition(vit, x):
    maps = cea.GradientWeightedAttention(vit, list(map(name, BLOCKS))).attribute(x, 3)
    for block, map_ in zip(BLOCKS, maps):
        same(map_, reference.legrad(vit, x, 3, [block], times_weights=True))


def test_rollout_is_its_definition_in_any_order_and_for_any_class(vit, x):
    method = cea.AttentionRollout(vit, list(map(name, [1, 0, 2])))
    same(method.attribute(x, 3), reference.rollout(vit, x, BLOCKS))
    assert torch.equal(method.attribute(x, 3), method.attribute(x, 0))


def test_alone_in_company_and_by_example(vit, x):
    before = copy.deepcopy(vit.state_dict())
    method = cea.LeGrad(vit, name(1))
    alone = method.attribute(x, 3)
    others = {
        "legrad": method,
        "all": cea.LeGrad(vit, list(map(name, BLOCKS))),
        "weighted": cea.GradientWeightedAttention(vit, list(map(name, BLOCKS))),
        "rollout": cea.AttentionRollout(vit, list(map(name, BLOCKS))),
        "gradcam": cea.GradCAM(vit, "encoder.layers.encoder_layer_1"),
    }
    together = cea.attribute_together(others, x, 3)
    assert torch.equal(together["legrad"], alone)
    for key, other in others.items():
        found, own = together[key], other.attribute(x, 3)
        pairs = zip(found, own) if isinstance(found, list) else [(found, own)]
        assert all(torch.equal(a, b) for a, b in pairs), key
    targets = method.attribute_per_target(x, [3, 1])
    assert torch.equal(targets[:, 0], alone)
    assert torch.equal(targets[:, 1], method.attribute(x, 1))
    same(torch.cat([method.attribute(one[None], 3) for one in x]), alone)
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())
    assert all(p.requires_grad for p in vit.parameters())


def test_a_block_means_the_attention_in_it(vit, x):
    assert torch.equal(
        cea.LeGrad(vit, "encoder.layers.encoder_layer_1").attribute(x, 3), cea.LeGrad(vit, name(1)).attribute(x, 3)
    )


@pytest.mark.parametrize("method", ["legrad", "gradient-weighted-attention", "attention-rollout"])
def test_laws_of_every_method(vit, x, method):
    made = make_method(method.upper(), vit, [vit.get_submodule(name(b)) for b in BLOCKS])
    assert isinstance(made, LayerAttribution)
    assert made.get_name()
    assert callable(made.attribute.__wrapped__)
    found = made.attribute(x, 1)
    for of_all, of_first in zip(*(m if isinstance(m, list) else [m] for m in (found, made.attribute(x[:1], 1)))):
        assert of_all.shape == (2, 1, 4, 4)
        assert not of_all.requires_grad
        same(of_first, of_all[:1])
    vit.float()
    for single, double in zip(*(m if isinstance(m, list) else [m] for m in (made.attribute(x.float(), 1), found))):
        assert single.dtype == torch.float32
        assert (single - double).abs().max() < 1e-4 * double.abs().max()


def test_layers_are_combined(vit, x):
    method = cea.LayerCombination(cea.GradientWeightedAttention(vit, list(map(name, BLOCKS))))
    assert method.attribute(x, 3).shape == (2, 1, 32, 32)


def test_a_class_token_s_last_block(vit, x):
    """The patches' gradient behind the last block is zero; that of its attention is not."""
    assert cea.LayerGradient(vit, "encoder.layers.encoder_layer_2").attribute(x, 3).abs().max() == 0
    assert cea.LeGrad(vit, name(2)).attribute(x, 3).max() > 0
    assert list(cea.default_layers(vit)) == ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"]


def test_layers_without_attention(vit, x):
    with pytest.raises(cea.InvalidValueError, match=r"mlp' makes no attention weights.*encoder_layer_1.self_attention"):
        cea.LeGrad(vit, "encoder.layers.encoder_layer_1.mlp").attribute(x, 3)
    with pytest.raises(cea.InvalidValueError, match="ran 3 times"):
        cea.LeGrad(vit, "encoder").attribute(x, 3)
    with pytest.raises(cea.InvalidTypeError, match="attention_layers"):
        cea.LeGrad(vit, None)
    with pytest.raises(cea.InvalidValueError, match="attribute_to_layer_input"):
        cea.LeGrad(vit, name(1)).attribute(x, 3, attribute_to_layer_input=True)
    with pytest.raises(NotImplementedError):
        cea.LeGrad(vit, name(1)).attribute_with_graph(x, 3)


def test_a_network_without_attention(small_net, images):
    with pytest.raises(cea.InvalidValueError, match="runs no attention"):
        cea.attention_layers(small_net, images)
    with pytest.raises(cea.InvalidValueError, match="runs none at all"):
        cea.LeGrad(small_net, "conv2").attribute(images, 1)


class Windows(nn.Module):
    """Windowed attention of a value alone: the score picks the token at one position."""

    def __init__(self, row, column, shift):
        super().__init__()
        self.at = row, column
        self.attn = torchvision.models.swin_transformer.ShiftedWindowAttention(4, [4, 4], [shift, shift], 2)

    def forward(self, x):
        y = self.attn(x.movedim(1, -1))[:, self.at[0], self.at[1]]
        return y.sum(-1, keepdim=True)


class AnyGradient(AttentionAttribution):
    """A method of one's own on attention weights."""

    def of_weights(self, weights, gradient):
        return gradient.abs().mean((-3, -2))


@pytest.mark.parametrize(("at", "shift", "rows"), [((5, 1), 0, range(4, 8)), ((5, 1), 2, range(2, 6))])
def test_windows_lie_where_their_keys_lie(at, shift, rows):
    torch.manual_seed(0)
    net = Windows(*at, shift).double().eval()
    map_ = AnyGradient(net, "attn").attribute(torch.randn(2, 4, 8, 8, dtype=torch.float64), 0)
    assert map_.shape == (2, 1, 8, 8)
    columns = range(4) if shift == 0 else [0, 1, 6, 7]
    expected = [[r in rows and c in columns for c in range(8)] for r in range(8)]
    assert torch.equal(map_[0, 0] != 0, torch.tensor(expected))


class Grid(nn.Module):
    """Attention of torchvision's MaxViT within windows, or among the tokens of a grid over the picture."""

    def __init__(self, kind):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.attn = torchvision.models.maxvit.PartitionAttentionLayer(
            4, 2, 4, kind, (8, 8), 2, nn.GELU, nn.LayerNorm, 0.0, 0.0, 0.0
        )

    def forward(self, x):
        return self.attn(self.conv(x))[:, :, 5, 1].sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("kind", "rows", "columns"), [("window", range(4, 8), range(4)), ("grid", (1, 3, 5, 7), (1, 3, 5, 7))]
)
def test_any_windows_and_grids_lie_where_their_dimensions_come_from(kind, rows, columns):
    torch.manual_seed(0)
    net = Grid(kind).double().eval()
    map_ = AnyGradient(net, "attn").attribute(torch.randn(2, 4, 8, 8, dtype=torch.float64), 0)
    expected = [[r in rows and c in columns for c in range(8)] for r in range(8)]
    assert torch.equal(map_[1, 0] != 0, torch.tensor(expected))
    with pytest.raises(cea.InvalidValueError, match="cannot be multiplied over layers"):
        cea.AttentionRollout(net, ["attn"]).attribute(torch.randn(2, 4, 8, 8, dtype=torch.float64), 0)


@needs_indexing
def test_the_maps_of_shifted_windows_are_those_of_their_dimensions():
    """Two ways to the same place: by the window's size and shift, and by the parts that rolling and cutting moved."""

    class Seen(cea.LeGrad):
        def maps_at(self, places, evidence):
            (a,), (g,) = evidence.activations[places[0]], evidence.gradients[places[0]]
            return (self._as_seen(a, g, evidence.surroundings(places[0])),)

    torch.manual_seed(0)
    net = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=3).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for layer in cea.attention_layers(net, x):
        same(Seen(net, layer).attribute(x, 1), cea.LeGrad(net, layer).attribute(x, 1))


def test_windows_of_which_nothing_is_known_are_an_error():
    class Blind(nn.Module):
        def forward(self, x):
            x = x.clone().reshape(-1)[torch.arange(x.numel())].reshape(x.shape)  # tells nothing of its dimensions
            t = x.flatten(2).transpose(1, 2).unflatten(1, (4, -1)).flatten(0, 1)[:, None]
            return (torch.softmax(t @ t.transpose(-1, -2), -1) @ t).flatten(1).unflatten(0, (len(x), -1)).sum((1, 2))

    net = nn.Sequential(Blind())
    with pytest.raises(cea.InvalidValueError, match="nothing tells where they lie"):
        cea.LeGrad(net, "0").attribute(torch.randn(2, 3, 8, 8), None)


@pytest.mark.parametrize("kwargs", [{"add_zero_attn": True}, {"add_bias_kv": True}])
def test_added_keys_have_no_position(kwargs):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.mha = nn.MultiheadAttention(4, 2, batch_first=True, **kwargs)

        def forward(self, x):
            t = x.flatten(2).transpose(1, 2)
            return self.mha(t, t, t)[0].sum(1)

    torch.manual_seed(0)
    assert cea.LeGrad(Net().eval(), "mha").attribute(torch.randn(2, 4, 4, 4), 1).shape == (2, 1, 4, 4)


def families():
    timm = pytest.importorskip("timm")
    yield "vit_b_16", torchvision.models.vit_b_16(num_classes=5), 224, 14
    yield "swin_t", torchvision.models.swin_t(num_classes=5), 224, 56
    yield "swin_v2_t", torchvision.models.swin_v2_t(num_classes=5), 256, 64
    timms = [("deit_tiny_patch16_224", 224, 14), ("eva02_tiny_patch14_224", 224, 16), ("cait_xxs24_224", 224, 14)]
    for one, side, grid in timms:
        yield one, timm.create_model(one, num_classes=5), side, grid
    for one, grid in (("maxvit_rmlp_pico_rw_256", 16), ("mvitv2_tiny", 8), ("hiera_tiny_224", 16)):
        yield one, timm.create_model(one, num_classes=5, img_size=(64, 64)), 64, grid
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    sized = {"image_size": 64, "patch_size": 16}
    for kind in ("ViT", "Dinov2"):
        config = getattr(transformers, f"{kind}Config")(**small, **sized)
        yield kind, Logits(getattr(transformers, f"{kind}ForImageClassification")(config)), 64, 4
    config = transformers.CLIPVisionConfig(projection_dim=8, **small, **sized)
    yield "CLIP", Logits(transformers.CLIPVisionModelWithProjection(config)), 64, 4


class Logits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        out = self.net(pixel_values=x)
        return out.logits if hasattr(out, "logits") else out.image_embeds


@pytest.mark.slow
def test_every_family():
    for called, net, side, grid in families():
        torch.manual_seed(0)
        net = net.eval()
        for p in net.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.1)
        x = torch.randn(1, 3, side, side)
        layers = list(cea.attention_layers(net, x))
        map_ = cea.LeGrad(net, layers).attribute(x, 1)
        assert map_.shape == (1, 1, grid, grid), called
        assert 0 < map_.max() < float("inf"), called
