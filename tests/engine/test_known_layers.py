"""What passes have found out about layers: remembered for as long as the layers live, and no map depends on it."""

import gc

import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine import recording, taps
from captum_extract_aggregate._engine.known_layers import KNOWN_LAYERS, KnownLayers


def test_single_operations_give_out_new_tensors_and_of_others_nothing_is_known():
    known = KnownLayers()
    block = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert known.gives_out_new_tensors(block[0]) is True
    assert known.gives_out_new_tensors(block) is None
    known.learn_plain([block])
    assert known.gives_out_new_tensors(block) is True
    known.learn_careful([block])
    assert known.gives_out_new_tensors(block) is False
    assert known.careful([block, block[0]]) == {block}


def test_what_is_as_long_as_the_batch_is_remembered_by_its_shape():
    known = KnownLayers()
    block = nn.Sequential()
    known.learn_of_examples(block, (4, 4, 3))
    assert known.is_of_examples(block, (4, 4, 3))
    assert not known.is_of_examples(block, (15, 15, 3))
    assert not known.is_of_examples(nn.Sequential(), (4, 4, 3))
    known.learn_of_examples(None, (4, 4, 3))
    assert not known.is_of_examples(None, (4, 4, 3))


def test_layers_are_forgotten_with_their_networks():
    known = KnownLayers()
    block = nn.Sequential()
    known.learn_careful([block])
    del block
    gc.collect()
    assert not len(known._careful)


class Stashing(nn.Module):
    """Uses what its first layer gives out before that layer has given it out."""

    def __init__(self):
        super().__init__()
        self.first = Doubled()

    def forward(self, x):
        return (self.first(x) * self.first.kept).flatten(1)


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        out = self.conv(x)
        self.kept = out * 2
        return out


def test_no_map_depends_on_what_is_known(monkeypatch):
    torch.manual_seed(0)
    net, x = Stashing(), torch.randn(2, 3, 8, 8)
    method = cea.LinearApproximation(net, "first")
    first = method.attribute(x, 5)
    assert KNOWN_LAYERS.careful([net.first])
    again = method.attribute(x, 5)
    for module in (taps, recording):
        monkeypatch.setattr(module, "KNOWN_LAYERS", KnownLayers())
    assert torch.equal(first, again)
    assert torch.equal(first, method.attribute(x, 5))
