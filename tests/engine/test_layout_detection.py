"""Telling channels from positions where the user has not said where they are."""

import pytest
import torch
from torch import nn
from torchvision.models.convnext import LayerNorm2d

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.layout import to_channels_first
from captum_extract_aggregate._engine.parts import Part
from captum_extract_aggregate._engine.surroundings import Surroundings
from tests.engine.arranged import PICTURE, Wrapped, channels_last, identity, is_map_of, of_convolution
from tests.networks import Tables

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


def test_a_transformer_with_24_tokens_and_24_channels_in_a_mixed_model():
    mixed = nn.Sequential(CONVOLUTIONAL, TRANSFORMER)
    with pytest.raises(ValueError, match="nothing tells"):
        shape(torch.zeros(2, 24, 24), module=nn.Identity(), models=(mixed,))
    assert shape(torch.zeros(2, 25, 24), module=TRANSFORMER, models=(mixed,), image=(40, 40)) == (24, 5, 5)


def test_a_batch_as_large_as_a_sequence_that_comes_first():
    attention = nn.Sequential(nn.MultiheadAttention(24, 2), nn.LayerNorm(24))
    with pytest.raises(ValueError, match="its batch from its sequence"):
        shape(torch.zeros(16, 16, 24), module=attention[1], models=(attention,), image=(32, 32))


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


SIGNAL = (3, 16)


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


def test_a_table_of_positions_is_no_map_of_a_single_example():
    torch.manual_seed(0)
    net, x = Tables().eval(), torch.randn(2, 3, 16, 16)
    for layer in ("table.0", "table"):
        for some in (x, x[:1]):
            with pytest.raises(ValueError, match="first dimension is not the batch"):
                cea.NormGrad(net, layer).attribute(some, 1)
    for layer in ("norm", "qkv"):  # of the same shape, but for the examples
        assert is_map_of(net, layer, x[:1], channels_last)


def test_what_stays_as_long_in_company_is_no_single_example():
    """Be its dimensions known, as those of a mean over the examples are."""
    for known in (None, ((), (Part("axis", 2, (2,)),), (Part("axis", 9, (3,)),), (Part("channel", 4),))):
        around = Surroundings(
            nn.Identity(), batch=1, image=(9, 9), look=lambda known=known: [known], lengths=lambda: [1]
        )
        with pytest.raises(ValueError, match="as many entries for a batch of two"):
            to_channels_first(torch.zeros(1, 2, 9, 4), "auto", around)


def folded(of_tokens):
    """Patches of 2 x 2 cells; the cells of each one come with the examples, or before the patches."""

    def forward(s, x):
        cells = s.c(x).unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 3, 5, 2, 4, 1)  # N 2 2 h w K
        if of_tokens:
            return s.fc(s.linear(cells.flatten(3, 4).flatten(0, 2)).mean(1).unflatten(0, (len(x), 4)).mean(1))
        cells = cells.flatten(3, 4).flatten(1, 2)
        if s.channels_last:
            return s.fc(s.linear(cells).mean((1, 2)))
        return s.fc(s.block(cells.movedim(-1, 1)).mean((2, 3)))

    net = Wrapped(
        forward, c=nn.Conv2d(3, 5, 4, 4), linear=nn.Linear(5, 5), fc=nn.Linear(5, 3),
        block=nn.Sequential(nn.Conv2d(5, 5, 1), nn.GroupNorm(1, 5), Wrapped(lambda s, x: s.c(x).relu(),
                                                                           c=nn.Conv2d(5, 5, 1))),
    )  # fmt: skip
    net.channels_last = False
    return net


@pytest.mark.parametrize("size", [(8, 8), (16, 16)])  # one patch; four
def test_cells_folded_into_the_batch_are_refused_of_one_example_as_of_two(size):
    torch.manual_seed(0)
    net = folded(True)
    for examples in (1, 2):
        with pytest.raises(ValueError, match="first dimension is not the batch"):
            cea.NormGrad(net, "linear").attribute(torch.randn(examples, 3, *size), 1)


def unpatched(t):
    """Cells behind patches, `N K 4 L`, as a grid of 8 x 12 cells."""
    return t.unflatten(3, (4, 6)).unflatten(2, (2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)


@pytest.mark.parametrize("examples", [1, 2])
@pytest.mark.parametrize("layer", ["block", "block.0", "block.1", "block.2", "block.2.c"])
def test_dimensions_of_patches_and_of_their_cells_are_no_picture_s(layer, examples):
    torch.manual_seed(0)
    assert is_map_of(folded(False), layer, torch.randn(examples, 3, 32, 48), unpatched)


@pytest.mark.parametrize("examples", [1, 2])
def test_nor_with_channels_last(examples):
    torch.manual_seed(0)
    net = folded(False)
    net.channels_last = True
    assert is_map_of(net, "linear", torch.randn(examples, 3, 32, 48), lambda t: unpatched(channels_last(t)))


def test_a_convolution_that_squeezes_one_axis_keeps_its_positions():
    torch.manual_seed(0)
    net = after_conv(nn.Conv2d(4, 5, 3, (8, 1)), nn.Conv2d(3, 4, 3, (4, 1), 1))
    net.fc = nn.Linear(5, 3)
    assert is_map_of(net, "m", torch.randn(2, 3, 64, 64), identity)
    around = Surroundings(net.m, (net,), 2, (64, 64))  # nor where nothing is seen of what made it
    assert shape(torch.zeros(2, 5, 2, 62), module=around.module, image=around.image) == (5, 2, 62)
