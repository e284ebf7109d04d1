"""What methods are registered as made of is what their maps are made of."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.tensors import min_max, upsample
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate.attr.by_name import METHODS, make_method
from captum_extract_aggregate.attr.method_table import POOLED, dependence
from captum_extract_aggregate.registry import list_aggregates
from tests.conftest import relative_error

# Around others, of attention, or of biases: what they are made of is no cell of the grid.
OTHERS = {
    *("extract-aggregate", "meta-saliency", "libra-grad", "finercam", "legrad", "gradient-weighted-attention"),
    *("attention-rollout", "bias", "fullgrad", "guided-gradcam", "class-competition"),
}
NAMES = [name for name in METHODS if name not in OTHERS]


def _spatial(t):
    return t.flatten(2)


def _everywhere(w, like):
    return w.reshape(*w.shape, *(1,) * (like.ndim - 2)).expand_as(like)


def _plus_plus(x, g):
    alpha = torch.where(g != 0, 1 / (2 + g * _everywhere(_spatial(x).sum(2), x)), 0)
    return _everywhere(_spatial(alpha * g.clamp(min=0)).sum(2), x)


WEIGHTS = {
    "g": lambda x, g: g,
    "(g)₊": lambda x, g: g.clamp(min=0),
    "mean of g": lambda x, g: _everywhere(_spatial(g).mean(2), g),
    "Σgx / Σx": lambda x, g: _everywhere(_spatial(g * x).sum(2) / _spatial(x).sum(2), x),
    "Σα(g)₊": _plus_plus,
    "R, gated": lambda x, g: g,  # what a method's own pass sends there
    "R, shared out": lambda x, g: g,
}
LAYERS = {
    "sum": lambda maps: sum(upsample(min_max(m.abs()), (12, 12)) for m in maps),
    "product": lambda maps: torch.stack([min_max(upsample(m, (12, 12))) for m in maps]).prod(0),
    "product, its root": lambda maps: LAYERS["product"](maps) ** (1 / len(maps)),
}


def cell(formula, x, g):
    """The grid's cell of weights and activation."""
    at = Place(nn.Identity(), "output")
    grid = cea.ExtractAggregate(
        lambda t: t, at.layer, extract=formula.extract, aggregate=formula.aggregate, layout="channels_first"
    )
    w = WEIGHTS[formula.weights](x, g).contiguous()
    (map_,) = grid.maps_at((at,), Evidence(torch.zeros(len(x)), {at: (x,)}, {at: (w,)}, {at: (0,)}, (x,), ()))
    return map_


@pytest.mark.parametrize("name", NAMES)
def test_the_map_is_its_cell_of_the_grid(name, small_net, images):
    net, x = small_net.double(), images[:1].double()
    formula, method = METHODS[name].formula, make_method(name, net, [net.bn, net.conv3])
    assert formula.aggregate in list_aggregates()
    passing = getattr(method, "attribution_method", method)
    places = [first for first, *_ in passing.plan(to_input=False)]
    (evidence,) = passing.run_pass(x, places, None, [1])
    maps = [cell(formula, evidence.activations[at][0], evidence.gradients[at][0]) for at in places]
    expected = maps if not formula.layers else [LAYERS[formula.layers](maps)]
    found = method.attribute(x, 1)
    for got, wanted in zip(found if isinstance(found, list) else [found], expected):
        assert relative_error(got, wanted) < 1e-10
        if formula.sign == "≥ 0":
            assert got.min() >= 0
    if formula.sign == "signed":
        assert min(m.min() for m in found) < 0


def test_every_method_says_what_it_is_made_of():
    assert all(method.formula is not None for _, method in METHODS.items())


class Pooled(nn.Module):
    """A network whose last layer is followed by global pooling and the classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.last(self.first(x)).mean((2, 3)))


def test_it_depends_on_the_class_where_the_table_says():
    net, x = Pooled().double().eval(), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    # Of RectGrad's map one percentile in a hundred is left
    asked = [n for n in NAMES if not METHODS[n].joins_layers and "rectgrad" not in n]
    methods = {name: make_method(name, net, [net.last]) for name in asked}
    found = cea.attribute_together_per_target(methods, x, [0, 1, 2])
    for name in asked:
        shapes = [maps[name][0] / maps[name][0].abs().max().clamp(min=1e-12) for maps in found]
        same = all(torch.allclose(shapes[0], other, atol=1e-9) for other in shapes[1:])
        assert same == (dependence(name, METHODS[name]) == POOLED), name
