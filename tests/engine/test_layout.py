"""Telling channels from positions."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.layout import to_channels_first
from captum_extract_aggregate._engine.surroundings import Surroundings
from tests.engine.arranged import Wrapped, channels_last, is_map_of


def test_values_go_where_they_belong():
    grid = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)  # N K H W
    last = grid.movedim(1, -1)
    tokens = torch.cat([torch.full((2, 1, 3), -1.0), last.flatten(1, 2)], 1)
    around = Surroundings(batch=2, image=(16, 20))
    assert torch.equal(to_channels_first(last, "channels_last", around)(last), grid)
    assert torch.equal(to_channels_first(tokens, "tokens", around)(tokens), grid)
    assert torch.equal(to_channels_first(last, lambda t: t.permute(0, 3, 1, 2), around)(last), grid)


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
