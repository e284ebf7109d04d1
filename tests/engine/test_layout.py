"""Telling channels from positions."""

import contextlib
import re

import pytest
import torch
from torch import nn
from torchvision.models.convnext import LayerNorm2d

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.input_positions import find_positions
from captum_extract_aggregate._engine.layout import to_channels_first
from captum_extract_aggregate._engine.surroundings import Surroundings, image_size

CONVOLUTIONAL = nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU())
TRANSFORMER = nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24), nn.GELU())


def shape(t, layout="auto", **around):
    around = Surroundings(batch=t.shape[0], **around)
    return tuple(to_channels_first(t, layout, around)(t).shape[1:])


@pytest.mark.parametrize(
    ("size", "around", "expected"),
    [
        ((24, 7, 5), {"module": CONVOLUTIONAL[0]}, (24, 7, 5)),
        ((7, 5, 24), {"module": TRANSFORMER[0]}, (24, 7, 5)),
        ((24, 7, 5), {"module": CONVOLUTIONAL}, (24, 7, 5)),
        ((7, 5, 24), {"module": TRANSFORMER}, (24, 7, 5)),
        ((24, 7, 5), {"module": CONVOLUTIONAL[2], "models": (CONVOLUTIONAL,)}, (24, 7, 5)),
        ((7, 5, 24), {"module": TRANSFORMER[2], "models": (TRANSFORMER,)}, (24, 7, 5)),
        ((24, 24, 24), {"module": CONVOLUTIONAL}, (24, 24, 24)),
        ((9, 7, 7), {}, (9, 7, 7)),  # nothing known: square pictures
        ((7, 7, 9), {}, (9, 7, 7)),
        ((6, 7, 5, 24), {"module": TRANSFORMER}, (24, 6, 7, 5)),
        ((24, 30), {"module": CONVOLUTIONAL}, (24, 30)),
        ((17, 24), {"module": TRANSFORMER, "image": (64, 64)}, (24, 4, 4)),  # class token
        ((16, 24), {"module": TRANSFORMER, "image": (64, 64)}, (24, 4, 4)),
        ((18, 24), {"module": TRANSFORMER, "image": (64, 64)}, (24, 4, 4)),  # class and distillation token
        ((21, 24), {"module": TRANSFORMER, "image": (64, 64)}, (24, 4, 4)),  # class and four register tokens
        ((193, 24), {"module": TRANSFORMER, "image": (256, 192)}, (24, 16, 12)),
        ((253, 24), {"module": TRANSFORMER, "image": (230, 300)}, (24, 14, 18)),  # patches that do not fit exactly
    ],
)
def test_channels_are_found(size, around, expected):
    assert shape(torch.zeros(2, *size), **around) == expected


@pytest.mark.parametrize(
    ("size", "module", "image", "expected"),
    [
        ((256, 16, 16), nn.Sequential(nn.Linear(256, 16), nn.Linear(16, 256)), (64, 64), (256, 16, 16)),  # gate
        ((3, 32, 32), nn.Sequential(nn.Linear(3 * 32 * 32, 32)), (32, 32), (3, 32, 32)),  # the input of an MLP
        ((96, 64, 96), nn.Sequential(nn.Conv2d(3, 96, 4, 4), LayerNorm2d(96)), (256, 384), (96, 64, 96)),
        ((96, 64, 96), LayerNorm2d(96), (256, 384), (96, 64, 96)),
        ((64, 96, 96), nn.Sequential(nn.Linear(96, 96)), (256, 384), (96, 64, 96)),  # channels last
        ((224, 224, 3), nn.Identity(), (224, 224), (3, 224, 224)),
        ((4, 6, 6, 24), nn.Identity(), (8, 48, 48), (24, 4, 6, 6)),  # video, channels last
    ],
)
def test_the_picture_s_proportions_count_more_than_numbers_of_channels(size, module, image, expected):
    assert shape(torch.zeros(2, *size), module=module, models=(module,), image=image) == expected


def test_the_picture_among_the_inputs():
    assert image_size((torch.zeros(2, 5), torch.zeros(2, 3, 40, 30))) == (40, 30)
    assert image_size((torch.zeros(2, 40, 30, 3),)) == (40, 30)
    assert image_size((torch.zeros(2, 3, 8, 40, 30),)) == (8, 40, 30)
    assert image_size((torch.zeros(2, 5, 6, 4),)) == (6, 4)
    assert image_size((torch.zeros(2, 5),)) == ()


def test_a_transformer_with_24_tokens_and_24_channels_in_a_mixed_model():
    mixed = nn.Sequential(CONVOLUTIONAL, TRANSFORMER)
    with pytest.raises(ValueError, match="nothing tells"):
        shape(torch.zeros(2, 24, 24), module=nn.Identity(), models=(mixed,))
    assert shape(torch.zeros(2, 25, 24), module=TRANSFORMER, models=(mixed,), image=(40, 40)) == (24, 5, 5)


def test_values_go_where_they_belong():
    grid = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)  # N K H W
    last = grid.movedim(1, -1)
    tokens = torch.cat([torch.full((2, 1, 3), -1.0), last.flatten(1, 2)], 1)
    around = Surroundings(batch=2, image=(16, 20))
    assert torch.equal(to_channels_first(last, "channels_last", around)(last), grid)
    assert torch.equal(to_channels_first(tokens, "tokens", around)(tokens), grid)
    assert torch.equal(to_channels_first(last, lambda t: t.permute(0, 3, 1, 2), around)(last), grid)


def test_the_model_says_how_many_tokens_have_no_place():
    class WithRegisters(nn.Module):
        num_prefix_tokens = 3

    around = Surroundings(batch=1, image=(32, 32), models=(WithRegisters(),))
    t = torch.zeros(1, 19, 8)
    assert tuple(to_channels_first(t, "tokens", around)(t).shape) == (1, 8, 4, 4)
    with pytest.raises(ValueError, match="make no grid"):
        to_channels_first(torch.zeros(1, 17, 8), "tokens", around)


def test_tokens_in_an_order_of_the_model_s_own():
    class Hiera(nn.Module):
        reroll = None

    with pytest.raises(ValueError, match="row by row"):
        to_channels_first(torch.zeros(2, 16, 24), "tokens", Surroundings(batch=2, image=(32, 32), models=(Hiera(),)))


def test_a_batch_as_large_as_a_sequence_that_comes_first():
    attention = nn.Sequential(nn.MultiheadAttention(24, 2), nn.LayerNorm(24))
    with pytest.raises(ValueError, match="its batch from its sequence"):
        shape(torch.zeros(16, 16, 24), module=attention[1], models=(attention,), image=(32, 32))


@pytest.mark.parametrize(
    ("t", "layout", "match"),
    [
        (torch.zeros(2, 5), "auto", "no positions"),
        (torch.zeros(2), "auto", "no positions"),
        (torch.zeros(8, 49, 24), "auto", "not the batch"),
        (torch.zeros(2, 13, 24), "tokens", "make no grid"),
        (torch.zeros(2, 24, 24, 24), "tokens", "batch x tokens x channels"),
        (torch.zeros(2, 5, 6, 7), "auto", "nothing tells"),
        (torch.zeros(2, 5, 6), lambda t: t.flatten(1), "position dimensions"),
        (torch.zeros(2, 5, 6), lambda t: t.flatten(0, 1), "position dimensions"),
        (torch.zeros(2, 5, 6), lambda t: None, "NoneType"),
    ],
)
def test_undecidable_or_impossible(t, layout, match):
    with pytest.raises(ValueError, match=match):
        to_channels_first(t, layout, Surroundings(batch=2, image=(32, 32)))(t)


class Wrapped(nn.Module):
    """A forward and the modules it uses."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.run(self, x)


def identity(t):
    return t


def channels_last(t):
    return t.movedim(-1, 1)


def is_map_of(net, layer, x, arrange, **kwargs):
    """Whether the linear approximation at a layer is that of its output, arranged by hand."""
    net.eval()
    seen = []
    with contextlib.ExitStack() as stack:
        if layer is None:
            x = x.clone().requires_grad_()
            seen.append(x)
        else:
            hook = net.get_submodule(layer).register_forward_hook(lambda module, args, out: seen.append(out))
            stack.callback(hook.remove)
        scores = net(x)[:, 1]
    out = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    (g,) = torch.autograd.grad(scores.sum(), out)
    expected = arrange((out * g).detach()).sum(1, keepdim=True)
    got = cea.LinearApproximation(net, layer, **kwargs).attribute(x.detach(), 1)
    assert isinstance(got, torch.Tensor)
    assert got.shape == expected.shape
    assert expected.abs().max() > 0
    return torch.allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("channels", [4, 5, 8])
@pytest.mark.parametrize("classes", [4, 5, 8])
def test_concatenated_convolutions_whatever_the_number_of_classes(dims, channels, classes):
    """At 4 positions along each axis: as many as channels, or as classes."""
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    cat = Wrapped(lambda s, x: torch.cat([s.p(x), s.q(x)], 1), p=conv(1, 3, 3, 4, 1), q=conv(1, channels - 3, 3, 4, 1))
    net = Wrapped(lambda s, x: s.fc(s.cat(x).flatten(2).mean(2)), cat=cat, fc=nn.Linear(channels, classes))
    assert is_map_of(net, "cat", torch.randn(2, 1, *[16] * dims), identity)


def of_convolution(arrange, back, dims=2):
    """A module of a convolution alone, which arranges its output by functions."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    inner = Wrapped(lambda s, x: arrange(s.c(x)), c=conv(3, 4, 4, 4))
    return Wrapped(lambda s, x: s.fc(back(s.inner(x)).flatten(2).mean(2)), inner=inner, fc=nn.Linear(4, 3))


def mixer(channels):
    """One block of an MLP-Mixer with 16 tokens."""

    def forward(s, x):
        x = s.patches(x).flatten(2).transpose(1, 2)
        x = x + s.tokens(s.norm(x).transpose(1, 2)).transpose(1, 2)
        return s.fc((x + s.mlp(x)).mean(1))

    def mlp(width):
        return nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    patches, norm = nn.Conv2d(3, channels, 4, 4), nn.LayerNorm(channels)
    return Wrapped(forward, patches=patches, norm=norm, tokens=mlp(16), mlp=mlp(channels), fc=nn.Linear(channels, 3))


def transformer(embed, arrange, width=8):
    layer = nn.TransformerEncoderLayer(width, 2, 16, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return Wrapped(
        lambda s, x: s.fc(s.norm(s.encoder(arrange(s.embed(x)))).mean(1)),
        embed=embed, encoder=encoder, norm=nn.LayerNorm(width), fc=nn.Linear(width, 3),
    )  # fmt: skip


def on_grid(t):
    return t.transpose(1, 2).unflatten(2, (4, 4))


def transposed(t):
    return t.transpose(1, 2)


def after_conv(module, conv, back=identity):
    return Wrapped(
        lambda s, x: s.fc(back(s.m(s.c(x))).flatten(2).mean(2)), c=conv, m=module, fc=nn.Linear(conv.out_channels, 3)
    )


PICTURE, SIGNAL = (3, 16, 16), (3, 16)
HOSTILE = {
    "a convolution that puts its channels last": (
        lambda: of_convolution(lambda t: t.permute(0, 2, 3, 1), channels_last), "inner", PICTURE, channels_last),
    "the same in a volume": (
        lambda: of_convolution(lambda t: t.movedim(1, -1), channels_last, 3), "inner", (3, 16, 16, 16), channels_last),
    "the same along time": (
        lambda: of_convolution(lambda t: t.mT, channels_last, 1), "inner", SIGNAL, channels_last),
    "positions that are no square, channels as many": (
        lambda: after_conv(nn.ReLU(), nn.Conv2d(1, 16, 3, (1, 2), 1)), "m", (1, 16, 16), identity),
    "Identity behind a convolution": (
        lambda: after_conv(nn.Identity(), nn.Conv1d(3, 8, 3, 2, 1)), "m", SIGNAL, identity),
    "flattened positions": (
        lambda: after_conv(nn.Flatten(2), nn.Conv2d(3, 16, 4, 4)), "m", PICTURE, identity),
    "a transposed grid": (
        lambda: Wrapped(lambda s, x: s.fc(s.i(s.c(x).mT.flatten(2).mT).mean(1)), c=nn.Conv2d(3, 7, 4, 4),
                        i=nn.Identity(), fc=nn.Linear(7, 3)),
        "i", (3, 16, 32), lambda t: t.mT.unflatten(2, (8, 4)).mT),
    "mixing tokens": (lambda: mixer(16), "tokens", PICTURE, identity),
    "mixing tokens, with as many channels as a grid": (lambda: mixer(25), "tokens.2", PICTURE, identity),
    "mixing channels": (lambda: mixer(16), "mlp.2", PICTURE, on_grid),
    "a transformer over a signal": (
        lambda: transformer(nn.Conv1d(3, 8, 1), transposed), "encoder", SIGNAL, channels_last),
    "a transformer over a signal's patches, as wide as long": (
        lambda: transformer(nn.Conv1d(3, 16, 4, 4), transposed, 16), "norm", (3, 64), channels_last),
    "a transformer over features": (
        lambda: transformer(nn.Linear(5, 8), identity), "encoder.layers.0", (16, 5), channels_last),
    "a transformer over the rows of a picture": (
        lambda: transformer(nn.Linear(16, 8), lambda t: t[:, 0]), "encoder", (1, 16, 16), channels_last),
    "the input, colours last": (
        lambda: Wrapped(lambda s, x: s.fc(s.c(x.movedim(-1, 1)).mean((2, 3))), c=nn.Conv2d(3, 4, 3),
                        fc=nn.Linear(4, 3)),
        None, (8, 8, 3), channels_last),
    "the input, as long as it has channels": (
        lambda: after_conv(nn.ReLU(), nn.Conv1d(8, 4, 3)), None, (8, 8), identity),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_the_operations_that_made_a_tensor_tell_its_channels(case):
    torch.manual_seed(0)
    make, layer, size, arrange = HOSTILE[case]
    assert is_map_of(make(), layer, torch.randn(2, *size), arrange)


class Recurrent(nn.Module):
    """A recurrent layer and what may follow it."""

    def __init__(self, cell=nn.LSTM, batch_first=True, bidirectional=False, features=5, **kwargs):
        super().__init__()
        self.rnn = cell(features, 8, 2, batch_first=batch_first, bidirectional=bidirectional, **kwargs)
        width = (1 + bidirectional) * (kwargs.get("proj_size") or 8)
        self.norm, self.linear, self.drop, self.tanh = (
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.Dropout(),
            nn.Tanh(),
        )
        self.batch_first, self.fc = batch_first, nn.Linear(width, 3)

    def forward(self, x):
        x = x if x.ndim == 3 else x[:, 0]  # the rows of a picture
        out = self.rnn(x if self.batch_first else x.transpose(0, 1))[0]
        return self.fc(self.tanh(self.drop(self.linear(self.norm(out)))).mean(1 if self.batch_first else 0))


def sequence_first(t):
    return t.permute(1, 2, 0)


@pytest.mark.parametrize("steps", [16, 13, 2])  # a square; no square; as many as examples
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_steps_of_a_recurrent_layer_are_a_sequence(cell, batch_first, steps):
    torch.manual_seed(0)
    net, arrange = Recurrent(cell, batch_first, steps == 13), channels_last if batch_first else sequence_first
    for layer in ("rnn", "norm", "linear", "drop", "tanh"):
        assert is_map_of(net, layer, torch.randn(2, steps, 5), arrange)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("layer", ["rnn", "norm", "drop"])
def test_recurrent_layers_over_the_rows_of_a_picture_and_with_projections(layer):
    torch.manual_seed(0)
    assert is_map_of(Recurrent(features=16), layer, torch.randn(2, 1, 16, 16), channels_last)
    assert is_map_of(Recurrent(proj_size=3), layer, torch.randn(2, 9, 5), channels_last)


STATES = {
    "out": lambda out, state: out,
    "pair": lambda out, state: (out, state),
    "flat": lambda out, state: (out, *state) if isinstance(state, tuple) else (out, state),
    "batch first": lambda out, state: (out, (state[0] if isinstance(state, tuple) else state).transpose(0, 1)),
}


@pytest.mark.parametrize("form", STATES)
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_final_states_have_no_map(cell, form):
    torch.manual_seed(0)
    inner = Wrapped(lambda s, x: STATES[form](*s.rnn(x)), rnn=cell(5, 8, 2, batch_first=True))

    def forward(s, x):
        out = s.inner(x)
        return s.fc((out[0] if isinstance(out, tuple) else out).mean(1))

    net = Wrapped(forward, inner=inner, fc=nn.Linear(8, 3))
    for batch in (2, 3):  # as many as layers, or more
        assert is_map_of(net, "inner", torch.randn(batch, 9, 5), channels_last)


def test_a_score_of_final_states_alone():
    net = Wrapped(lambda s, x: s.fc(s.rnn(x)[1][-1]), rnn=nn.GRU(5, 8, batch_first=True), fc=nn.Linear(8, 3))
    with pytest.raises(ValueError, match="final states, which have no positions"):
        cea.NormGrad(net, "rnn").attribute(torch.randn(2, 9, 5), 1)
    assert cea.NormGrad(net, "rnn").attribute(torch.randn(2, 9, 5), 1, None, True).shape == (2, 1, 9)


@pytest.mark.parametrize("to_input", [False, True])
def test_packed_sequences(to_input):
    def forward(s, x):
        packed = nn.utils.rnn.pack_padded_sequence(s.before(x), [4, 9], batch_first=True, enforce_sorted=False)
        return s.fc(s.behind(nn.utils.rnn.pad_packed_sequence(s.rnn(packed)[0], batch_first=True)[0]).mean(1))

    net = Wrapped(
        forward, before=nn.Linear(5, 6), rnn=nn.GRU(6, 8, batch_first=True), behind=nn.LayerNorm(8), fc=nn.Linear(8, 3)
    )
    x = torch.randn(2, 9, 5)
    with pytest.raises(ValueError, match=r"put of layer GRU is a packed sequence.*pad_packed_sequence"):
        cea.NormGrad(net, "rnn").attribute(x, 1, attribute_to_layer_input=to_input)
    assert is_map_of(net, "before", x, channels_last)
    assert is_map_of(net, "behind", x, channels_last)


def test_the_model_is_looked_at_without_a_trace():
    net = of_convolution(lambda t: t.permute(0, 2, 3, 1), channels_last)
    net.register_buffer("calls", torch.zeros(()))
    calls = []
    net.register_forward_pre_hook(lambda module, args: calls.append(torch.is_grad_enabled()))
    state = torch.get_rng_state()
    cea.NormGrad(net, "inner").attribute(torch.randn(2, *PICTURE, generator=torch.Generator().manual_seed(0)), 1)
    assert len(calls) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.inner._forward_hooks
    calls.clear()
    cea.NormGrad(net, "inner.c").attribute(torch.randn(2, *PICTURE), 1)  # no doubt there
    assert len(calls) == 1


class Views(nn.Module):
    """Views of an object, folded into the batch of one encoder; their scores' maximum."""

    def __init__(self, views_first=False):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 6, 3, 2, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 8, 3, 2, 1)
        self.views_first, self.fc = views_first, nn.Linear(8, 3)

    def forward(self, x):
        x = x.transpose(0, 1) if self.views_first else x
        features = self.last(self.norm(self.conv(x.flatten(0, 1))).relu()).relu().mean((2, 3))
        return self.fc(features.unflatten(0, x.shape[:2]).mean(0 if self.views_first else 1))


def named_layout(model, layer, x):
    """The layout that the error names."""
    with pytest.raises(ValueError, match="layout=lambda t: ") as caught:
        cea.NormGrad(model, layer).attribute(x, 1)
    code = re.search(r"layout=(lambda t: [^;]*\))", str(caught.value)).group(1)
    while code.count("(") < code.count(")"):
        code = code[:-1]
    return eval(code)


@pytest.mark.parametrize("views_first", [False, True])
def test_views_folded_into_the_batch_unfold_by_the_layout_that_the_error_names(views_first):
    torch.manual_seed(0)
    net, x = Views(views_first).double().eval(), torch.randn(2, 5, 3, 16, 16, dtype=torch.float64)
    layout = named_layout(net, "last", x)

    def unfold(t):
        t = t.unflatten(0, (5, 2)).transpose(0, 1) if views_first else t.unflatten(0, (2, 5))
        return t.transpose(1, 2)

    assert is_map_of(net, "last", x, unfold, layout=layout)
    assert is_map_of(net, "norm", x, unfold, layout=layout)


def test_tokens_of_views_become_their_grids():
    model = cea.load_scene_model("vit")
    net = Wrapped(lambda s, x: s.m(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1), m=model)
    x = torch.randn(1, 2, 3, 96, 96)
    layout = named_layout(net, "m.blocks.1", x)

    def unfold(t):
        return t[:, 1:].unflatten(1, (12, 12)).movedim(-1, 1)[None].transpose(1, 2)

    assert is_map_of(net, "m.blocks.1", x, unfold, layout=layout)


EXTRACTS = ["bias", "scaling", "conv1x1", "conv3x3", "depthwise3x3", "layer", "layer_bias"]


@pytest.mark.parametrize("extract", EXTRACTS)
@pytest.mark.parametrize("layer", ["last", "norm"])
def test_views_are_each_a_picture_to_every_extract(extract, layer):
    """The map of a view is that of the view alone: no window and no norm reaches into another."""
    torch.manual_seed(0)
    net, x = Views().double().eval(), torch.randn(2, 5, 3, 16, 16, dtype=torch.float64)
    layout = named_layout(net, layer, x)
    alone = lambda pictures: net.fc(net.last(net.norm(net.conv(pictures)).relu()).relu().mean((2, 3))) / 5  # noqa: E731
    got = cea.ExtractAggregate(net, layer, extract=extract, layout=layout).attribute(x, 1)
    expected = cea.ExtractAggregate(alone, net.get_submodule(layer), extract=extract).attribute(x.flatten(0, 1), 1)
    torch.testing.assert_close(got, expected.unflatten(0, (2, 5)).transpose(1, 2), rtol=1e-9, atol=1e-12)


def test_views_work_with_methods_of_every_kind():
    torch.manual_seed(0)
    net, x = Views().eval(), torch.randn(2, 5, 3, 16, 16)
    layout, layers = named_layout(net, "last", x), ["conv", "last"]
    for method in (cea.GradCAM, cea.GradCAMPlusPlus, cea.LayerGradient, cea.BiasAttribution, cea.GuidedBackprop):
        assert method(net, "last", layout=layout).attribute(x, 1).shape == (2, 1, 5, 4, 4)
    assert cea.MetaSaliency(cea.NormGrad(net, "last", layout=layout)).attribute(x, 1).shape == (2, 1, 5, 4, 4)
    combined = cea.LayerCombination(cea.NormGrad(net, layers, layout=layout))
    for method in (combined, cea.AggregatedActivity(net, layers, layout=layout), cea.FullGrad(net, layout=layout)):
        assert method.attribute(x, 1).shape == (2, 1, 5, 16, 16)


def test_a_layout_that_does_not_fit():
    net, x = Views().eval(), torch.randn(2, 5, 3, 16, 16)
    with pytest.raises(ValueError, match=r"layout\(activation\) failed.*write -1"):
        cea.NormGrad(net, "last", layout=lambda t: t.unflatten(0, (3, 4))).attribute(x, 1)


def test_patches_that_share_a_score():
    """The error says how to make one example of them, and that works."""
    torch.manual_seed(0)
    bag = Wrapped(
        lambda s, x: s.fc(s.c(x).relu().mean((0, 2, 3)))[None], c=nn.Conv2d(3, 4, 3, 2, 1), fc=nn.Linear(4, 3)
    )
    x = torch.randn(6, 3, 16, 16)
    with pytest.raises(ValueError, match=r"1 score\(s\) for a batch of 6.*of 6 inputs together") as caught:
        cea.NormGrad(bag, "c").attribute(x, 1)
    inputs, forward_func, layout = re.search(
        r"inputs (x\.unflatten.*), forward_func=(lambda x: .*), layout=(lambda t: .*)", str(caught.value)
    ).groups()
    scope = {"model": bag, "x": x}
    method = cea.LinearApproximation(eval(forward_func, scope), bag.c, layout=eval(layout))
    as_one = method.attribute(eval(inputs, scope), 1)
    seen = bag.c(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(bag.fc(seen.relu().mean((0, 2, 3)))[1], seen)
    torch.testing.assert_close(as_one, (seen * g).detach().sum(1)[None, None])


def test_sizes_of_views_and_of_signals_without_channels():
    assert image_size((torch.zeros(2, 16, 3, 32, 24),)) == (16, 32, 24)
    assert image_size((torch.zeros(2, 3, 16, 32, 24),)) == (16, 32, 24)
    assert find_positions((torch.zeros(2, 500),), [(500,)]).size == (500,)
    assert find_positions((torch.zeros(2, 3, 500),), [(500,)]).size == (500,)


def test_raw_audio_is_a_signal_of_one_channel():
    torch.manual_seed(0)
    net = Wrapped(
        lambda s, x: s.fc(s.c(x if x.ndim == 3 else x.unsqueeze(1)).relu().mean(2)),
        c=nn.Conv1d(1, 4, 9, 4),
        fc=nn.Linear(4, 3),
    )
    x = torch.randn(2, 100)
    methods = [cea.FullGrad(net), cea.LayerCombination(cea.NormGrad(net, ["c"])), cea.LayerGradient(net, None)]
    methods += [cea.AggregatedActivity(net, ["c"], include_input=True)]
    for method in methods:
        got = method.attribute(x, 1)
        assert got.shape == (2, 1, 100)
        torch.testing.assert_close(got, method.attribute(x.unsqueeze(1), 1))


def test_a_layer_that_gives_a_number_too_has_no_map_of_it():
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            return y, y.square().mean()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = WithLoss()

        def forward(self, x):
            y, loss = self.block(x)
            return y.mean((2, 3)) + loss

    with pytest.raises(ValueError, match=r"tensor 2 of 2.* shape \(\), which has no positions"):
        cea.NormGrad(Net().eval(), "block").attribute(torch.randn(2, 3, 8, 8), 1)
