"""What a pass has to know of a model's modules, and by what they differ."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate._engine.model_parts import ModelParts, unseen
from tests.conftest import SmallNet


def parts():
    net = SmallNet().eval()
    return net, ModelParts(unseen(net, set()))


def test_modules_are_those_of_pytorch_each_once():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    net.append(net[0])
    seen = {net[1]}
    assert unseen(net, seen) == [net, net[0]]
    assert seen == {net, net[0], net[1]}
    assert set(ModelParts(unseen(net, set())).modules) == set(net.modules())


def test_flags_of_parameters():
    net, found = parts()
    net.fc.weight.requires_grad_(False)
    for _ in range(2):
        assert [*map(id, found.having(requires_grad=False))] == [id(net.fc.weight)]
        assert {*map(id, found.having(requires_grad=True))} == {id(p) for p in net.parameters() if p.requires_grad}
    net.fc.weight.requires_grad_(True)
    assert found.having(requires_grad=False) == []


def test_parameters_that_cannot_change():
    net = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ValueError, match="lazy parameters"):
        ModelParts([*net.modules()]).having(requires_grad=True)
    with torch.inference_mode():
        net = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="inference_mode"):
        ModelParts([net]).having(requires_grad=True)


CHANGES = {
    "training": lambda net: net.bn.train(),
    "a child": lambda net: setattr(net, "conv2", nn.Identity()),
    "one child more": lambda net: setattr(net, "more", nn.Identity()),
    "a parameter": lambda net: setattr(net.fc, "weight", nn.Parameter(net.fc.weight.detach())),
    "no parameter": lambda net: setattr(net.fc, "bias", None),
    "compiled": lambda net: net.conv1.compile(backend="eager"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_state_tells_what_has_changed(change):
    net, found = parts()
    before = found.state()
    net.conv1.weight.data.mul_(2)
    assert found.state() == before
    CHANGES[change](net)
    assert found.state() != before


def test_hooks():
    net, found = parts()
    assert not found.is_hooked()
    net.conv3.register_forward_pre_hook(lambda *_: None)
    assert found.is_hooked()
