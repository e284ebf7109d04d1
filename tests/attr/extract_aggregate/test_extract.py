"""Closed forms against literal references, and the law behind every extractor."""

import dataclasses

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.extract_aggregate import extract as ex
from captum_extract_aggregate.attr.extract_aggregate.aggregate import (
    AGGREGATES,
    aggregate,
)
from captum_extract_aggregate.attr.extract_aggregate.contribution import Factor, Summand
from tests.attr.extract_aggregate.cases import VIRTUAL, draw_tensor
from tests.conftest import relative_error
from tests.reference import extract_aggregate as reference

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
TOLERANCE = 1e-10


@st.composite
def activations(draw):
    dims = draw(st.integers(1, 3))
    sizes = [draw(st.integers(1, 5)) for _ in range(dims)]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 4)), *sizes)
    seed = draw(st.integers(0, 2**16))
    x, g = draw_tensor(seed, *shape), draw_tensor(seed + 1, *shape)
    if draw(st.booleans()):
        x = x.clamp(min=0)  # as after a ReLU: one-signed factors take other branches
    return x, g


@pytest.mark.parametrize("name", VIRTUAL)
@given(data=activations())
def test_virtual_extracts_equal_reference(name, data):
    x, g = data
    expected = reference.virtual_summands(name, x, g)
    summand = ex.virtual_extract(name)(ex.Pair(x, g))
    assert torch.equal(summand.materialize().flatten(x.ndim - 1), expected)
    for how in AGGREGATES:
        got = aggregate(summand, how)
        assert got.shape == (x.shape[0], 1, *x.shape[2:])
        want = reference.aggregate(expected, how, x.ndim - 2)
        assert relative_error(got[:, 0], want) < TOLERANCE or torch.allclose(got[:, 0], want, atol=1e-13), how


def wrong_sizes(layer, sizes):
    """Whether the layer refuses inputs of these sizes."""
    try:
        layer(torch.zeros(1, layer.in_channels, *sizes, dtype=torch.float64))
    except (RuntimeError, ValueError):
        return True
    return False


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    numbers = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    stride = numbers(1, 3)
    padding = draw(st.sampled_from(["valid", "same", None]))
    if padding == "same":
        stride = (1,) * dims
    layer = CONVS[dims](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        numbers(1, 3),
        stride,
        numbers(0, 2) if padding is None else padding,
        numbers(1, 2),
        groups,
        padding_mode=mode,
        dtype=torch.float64,
    )
    return layer, tuple(draw(st.integers(3, 6)) for _ in range(dims))


@st.composite
def transposed_convolutions(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    numbers = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    stride, dilation = numbers(1, 3), numbers(1, 2)
    layer = TRANSPOSED[dims](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        numbers(1, 3),
        stride,
        numbers(0, 2),
        tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation)),
        groups,
        dilation=dilation,
        dtype=torch.float64,
    )
    return layer, tuple(draw(st.integers(1, 5)) for _ in range(dims))


def check_real_layer(layer, x, last=False):
    """Reference, every aggregate, and the law: the summands' sum is autograd's gradient for that example."""
    output = layer(x)
    g = draw_tensor(7, *output.shape)
    summand = ex.layer_extract(layer, "it")(layer, *(t.movedim(-1, 1) if last else t for t in (x, g)))
    got = summand.materialize()
    expected = reference.layer_summands(layer, x, g)
    assert relative_error(got, expected) < TOLERANCE or torch.allclose(got, expected, atol=1e-13)
    positions = output.ndim - 2
    for how in AGGREGATES:
        want = reference.aggregate(expected, how, positions)
        have = aggregate(summand, how)[:, 0]
        assert relative_error(have, want) < TOLERANCE or torch.allclose(have, want, atol=1e-13), how
    for i in range(len(x)):
        (of_weight,) = torch.autograd.grad(layer(x[i : i + 1]), layer.weight, g[i : i + 1])
        assert torch.allclose(got[i].sum(tuple(range(positions))), of_weight, rtol=1e-9, atol=1e-11)
    if getattr(layer, "bias", None) is not None:
        channels_first = g.movedim(-1, 1) if last else g
        bias = ex.layer_bias_extract(layer, x, channels_first).materialize()
        assert torch.equal(bias, reference.layer_bias_summands(layer, channels_first if not last else g))


@given(data=convolutions(), batch=st.integers(1, 2))
def test_convolution(data, batch):
    layer, sizes = data
    if not wrong_sizes(layer, sizes):
        check_real_layer(layer, draw_tensor(3, batch, layer.in_channels, *sizes))


@given(data=transposed_convolutions(), batch=st.integers(1, 2))
def test_transposed_convolution(data, batch):
    layer, sizes = data
    if not wrong_sizes(layer, sizes):
        check_real_layer(layer, draw_tensor(3, batch, layer.in_channels, *sizes))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_linear_and_layer_norm_over_positions(dims):
    x = draw_tensor(0, 2, *(3, 4, 2)[:dims], 5)
    check_real_layer(nn.Linear(5, 3, dtype=torch.float64), x, last=True)
    norm = nn.LayerNorm(5, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    check_real_layer(norm, x, last=True)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_channels_first_norms(dims):
    x = draw_tensor(0, 2, 6, *(4, 3, 2)[:dims])
    batch_norm = BATCH_NORMS[dims](6, dtype=torch.float64)
    tracked = INSTANCE_NORMS[dims](6, affine=True, track_running_stats=True, dtype=torch.float64)
    for norm in (batch_norm, tracked):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    untracked = INSTANCE_NORMS[dims](6, affine=True, dtype=torch.float64)
    for norm in (batch_norm.eval(), tracked.eval(), untracked, nn.GroupNorm(3, 6, dtype=torch.float64)):
        nn.init.normal_(norm.weight)
        check_real_layer(norm, x)


def _hugging_faces_layer_norm():
    return pytest.importorskip("transformers.models.convnextv2.modeling_convnextv2").ConvNextV2LayerNorm(
        4, data_format="channels_first"
    )


@pytest.mark.parametrize(
    "make", [lambda: torchvision.models.convnext.LayerNorm2d(4), _hugging_faces_layer_norm], ids=["torchvision", "hf"]
)
def test_layer_norm_2d(make):
    layer, x = make().double(), draw_tensor(0, 2, 4, 3, 5)
    g = draw_tensor(1, 2, 4, 3, 5)
    got = ex.layer_extract(layer, "it")(layer, x, g).materialize()
    for i in range(2):
        (of_weight,) = torch.autograd.grad(layer(x[i : i + 1]), layer.weight, g[i : i + 1])
        assert torch.allclose(got[i].sum((0, 1)), of_weight)


def test_a_new_layer_type_takes_a_few_lines(monkeypatch):
    class ChannelScale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 1, 1, dtype=torch.float64))

        def forward(self, x):
            return self.weight * x

    monkeypatch.setattr(ex.REAL_LAYERS, "_things", dict(ex.REAL_LAYERS._things))

    @ex.register_layer(ChannelScale)
    def channel_scale(module, x, g):
        return Summand(Factor(g.unsqueeze(2)), Factor(x.unsqueeze(2)), tuple(module.weight.shape))

    layer, x, g = ChannelScale(), draw_tensor(0, 1, 4, 3, 3), draw_tensor(1, 1, 4, 3, 3)
    got = ex.layer_extract(layer, "it")(layer, x, g).materialize().sum((0, 1, 2))
    assert torch.allclose(got, torch.autograd.grad(layer(x), layer.weight, g)[0])


def test_a_subclass_that_computes_something_else_is_refused():
    class ActivatedConv(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(ValueError, match="register_layer"):
        ex.layer_extract(ActivatedConv(1, 1, 1), "it")

    class RenamedConv(nn.Conv2d):
        pass

    assert ex.layer_extract(RenamedConv(1, 1, 1), "it") is ex.layer_extract(nn.Conv2d(1, 1, 1), "it")


def test_tiny_gradients_do_not_underflow():
    g = torch.full((1, 2, 1, 1), 1e-30)  # squares vanish in float32
    scaled, scale = ex.unit_scale(g)
    x = torch.ones(1, 2, 1, 1)
    assert torch.allclose(
        aggregate(ex.virtual_extract("conv1x1")(ex.Pair(x, scaled)), "norm") * scale, torch.tensor(2e-30)
    )
    zero, one = ex.unit_scale(torch.zeros(1, 2, 1, 1))
    assert zero.abs().max() == 0
    assert one.item() == 1


def test_a_layout_function_need_not_be_hashable():
    @dataclasses.dataclass
    class Same:
        def __call__(self, t):
            return t

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.randn(2, 3, 8, 8)
    methods = {
        name: cea.ExtractAggregate(net, "0", extract="conv1x1", aggregate=name, layout=Same())
        for name in ("norm", "sum")
    }
    for name, map_ in cea.attribute_together(methods, x, 1).items():
        assert torch.equal(map_, methods[name].attribute(x, 1))


def test_a_stride_may_be_a_list():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.randn(2, 4, 8, 8)
    expected = cea.NormGrad(net, "0", virtual_identity=False).attribute(x, 1)
    net[0].stride = [1, 1]
    assert torch.equal(cea.NormGrad(net, "0", virtual_identity=False).attribute(x, 1), expected)


@pytest.mark.parametrize("method", [cea.GradCAM, cea.GradCAMPos, cea.GradMid, cea.GradCAMPlusPlus])
def test_positive_aggregation_a_few_channels_at_a_time(method, small_net, images, monkeypatch):
    whole = method(small_net, "conv2").attribute(images, 1)
    monkeypatch.setattr("captum_extract_aggregate._common.chunks._CHUNK", 100)
    torch.testing.assert_close(method(small_net, "conv2").attribute(images, 1), whole)


@pytest.mark.parametrize("layout", ["auto", lambda t: t[:, :2]])
def test_tiny_scores_give_tiny_maps(small_net, images, layout):
    method = cea.NormGrad(lambda x: small_net.float()(x), small_net.conv2, layout=layout)
    tiny = cea.NormGrad(lambda x: small_net.float()(x) * 1e-25, small_net.conv2, layout=layout)
    torch.testing.assert_close(tiny.attribute(images.float(), 1) * 1e25, method.attribute(images.float(), 1))


def other_layer(module, x, g):
    return ex.layer_bias_extract(module, x, g * 0)


@pytest.mark.parametrize("spelling", [nn.Conv2d, "torch.nn.modules.conv.Conv2d"])
def test_a_layer_type_that_is_taken_is_an_error(tables, small_net, images, spelling):
    method = cea.NormGrad(small_net, "conv3", virtual_identity=False)
    before, content = method.attribute(images, 1), dict(ex.REAL_LAYERS._things)

    class Fresh(nn.Conv2d):
        pass

    with pytest.raises(ValueError, match=r"torch.nn.modules.conv.Conv2d', which is taken; .* overwrite=True"):
        ex.register_layer(Fresh, spelling)
    assert content == ex.REAL_LAYERS._things  # nor was the other one registered
    ex.register_layer(Fresh, spelling, overwrite=True)(other_layer)
    assert not method.attribute(images, 1).any()
    ex.unregister_layer(spelling, Fresh, Fresh)
    assert content == ex.REAL_LAYERS._things
    assert torch.equal(method.attribute(images, 1), before)
    with pytest.raises(ValueError, match="Fresh', which is unknown"):
        ex.unregister_layer(spelling, Fresh)


def test_a_type_known_by_its_name_alone_is_taken_too(tables):
    norm = torchvision.models.convnext.LayerNorm2d
    with pytest.raises(ValueError, match="LayerNorm2d', which is taken"):
        ex.register_layer(norm)
    ex.register_layer(norm, overwrite=True)(other_layer)
    assert ex.layer_extract(norm(4), "it") is other_layer
    ex.unregister_layer(norm)
    assert ex.layer_extract(norm(4), "it") is ex._real_layer_norm
    for wrong in ((), (3,), (int,), (nn.Conv2d, None)):
        with pytest.raises(TypeError, match="expected types of layers"):
            ex.register_layer(*wrong)
