"""What one forward and one backward showed."""

import torch
from torch import nn

from captum_extract_aggregate._engine.evidence import Cache, Evidence
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.taps import Place


def test_what_is_kept_is_computed_once_and_what_is_not_each_time():
    for keeps, calls in ((True, 1), (False, 2)):
        cache, made = Cache(keeps), []
        got = [cache.once("key", lambda made=made: made.append(1) or len(made)) for _ in range(2)]
        assert len(made) == calls
        assert got == ([1, 1] if keeps else [1, 2])
        assert len(cache) == keeps


class Uses(nn.Module):
    """Uses one linear layer's weight without calling it, and another one not at all."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.idle = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x):
        return nn.functional.linear(self.conv(x).mean((2, 3)), self.head.weight)


def test_it_tells_of_which_layers_the_parameters_are_used():
    net, place = Uses().eval(), Place(None, "input")
    (evidence,) = record(net, torch.randn(2, 3, 8, 8), [place]).evidence([1])
    assert [evidence.uses(layer) for layer in (net.conv, net.head, net.idle)] == [True, True, False]
    around = evidence.surroundings(place)
    assert (around.batch, around.image, around.models) == (2, (8, 8), evidence.models)


def test_without_another_look_nothing_is_known_to_be_used():
    net = Uses()
    evidence = Evidence(torch.zeros(1), {}, {}, {}, (torch.zeros(1, 3, 8, 8),), (net,))
    assert not evidence.uses(net.conv)
    assert evidence.surroundings(Place(net.conv)).look is None
