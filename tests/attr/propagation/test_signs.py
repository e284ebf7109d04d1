"""What is known to have no negative numbers has none, and what a network's layers see behind rectifiers is known."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.lrp_rules import Linear, ZPlus
from captum_extract_aggregate.attr.propagation.relevance_interception import RelevanceInterception
from captum_extract_aggregate.attr.propagation.signs import Signs
from tests.networks import lively

KNOWN = {
    "pooled": lambda y: F.max_pool2d(y, 2),
    "reshaped": lambda y: y.flatten(1).reshape(2, 4, 6, 6)[:, 1:],
    "joined": lambda y: torch.cat([y, y.sigmoid()], 1),
    "padded": lambda y: F.pad(y, (1, 1, 1, 1)),
    "added": lambda y: y + y.flip(2) + 1,
    "gated": lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(),
    "clamped": lambda y: (y - 1).clamp(min=0),
    "resized": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
    "in place": lambda y: y.clone().sub_(1).relu_(),
    "dropped": lambda y: F.dropout(y),
}
UNKNOWN = {
    "shifted": lambda y: y - 1,
    "less": lambda y: y + -1,
    "subtracted": lambda y: torch.add(y, y.flip(2), alpha=-1),
    "padded": lambda y: F.pad(y, (1, 1, 1, 1), value=-1.0),
    "leaky": lambda y: F.leaky_relu(y - 1),
    "overwritten": lambda y: y.clone().sub_(1),
    "a view overwritten": lambda y: (lambda t: (t[:, 0].sub_(1), t)[1])(y.clone()),
    "written": lambda y: (lambda t: (t.__setitem__((0, 0), -1), t)[1])(y.clone()),
    "joined": lambda y: torch.cat([y, -torch.ones_like(y)], 1),
    "weighed": lambda y: y * -torch.ones(4, 1, 1),
    "clamped": lambda y: (y - 1).clamp(min=-1),
    "dropped": lambda y: F.alpha_dropout(y, training=True),
}


@pytest.mark.parametrize("known", [True, False])
def test_what_is_known(known, monkeypatch):
    signs = []
    note = Signs.note
    monkeypatch.setattr(Signs, "note", lambda self, *call: (note(self, *call), signs.append(self))[0])
    torch.manual_seed(0)
    for name, function in (KNOWN if known else UNKNOWN).items():
        found = []
        for x in (torch.randn(2, 4, 6, 6), torch.zeros(2, 4, 6, 6)):
            interception = RelevanceInterception("method", ZPlus())
            with interception:
                y = function((x.requires_grad_() * 1).relu())
            assert interception.signs.is_never_negative(y) == known, name
            found.append(bool((y < 0).any()))
        assert any(found) != known, name


def test_no_layer_behind_a_rectifier_is_looked_at(monkeypatch):
    looked = []
    look = Linear.may_be_negative
    monkeypatch.setattr(Linear, "may_be_negative", lambda self, a: looked.append(self.never_negative) or look(self, a))
    for name, unknown in {"resnet18": 1, "mobilenet_v2": 18}.items():
        looked.clear()
        net = lively(torchvision.models.get_model(name, weights=None))
        cea.ExcitationBackprop(net).attribute(torch.randn(1, 3, 32, 32), 3)
        assert looked.count(False) == unknown, name
