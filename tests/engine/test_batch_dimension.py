"""Activations whose dimension 0 holds more than the examples: views, patches, and layouts that part them."""

import re

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from tests.engine.arranged import Views, Wrapped, is_map_of, named_layout


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
