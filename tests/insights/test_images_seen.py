"""Which inputs of a model a method explains."""

import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.insights import input_maps
from captum_extract_aggregate.insights.images_seen import OfSome, images_seen
from tests.insights.given import Two, needs_insights, of_insights


@needs_insights
class TestSeveralInputs:
    def test_a_layer_s_map_goes_to_the_images_it_depends_on(self):
        model = Two("image")
        x, y = model.inputs()
        for layer, sees_x, sees_y in (("a", True, False), ("b", False, True), ("both", True, True)):
            found = of_insights(model, (x, y), "normgrad", layer=layer, virtual_identity="yes")
            assert [f.count_nonzero() > 3 for f in found] == [sees_x, sees_y], layer
        map_a = cea.NormGrad(model, "a").attribute((x, y), target=2)
        found, nothing = of_insights(model, (x, y), "normgrad", layer="a")
        torch.testing.assert_close(found, input_maps.like_input(map_a, x))
        assert nothing.count_nonzero() == 3  # the pixel of a map of zeros
        nothing, found = of_insights(model, (x, y), "normgrad", layer="b")
        assert found.shape == y.shape
        of_y = cea.NormGrad(lambda second: model(x, second), model.b).attribute(y, target=2)
        torch.testing.assert_close(found, input_maps.like_input(of_y, y))


class Sum(torch.nn.Module):
    """Of two images one sees each convolution; vectors are none."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.both = torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1)

    def forward(self, x, vector, y, factor=1.0):
        return self.both(self.a(x) + self.b(y)).sum((2, 3)) + vector * factor


def test_images_that_a_layer_depends_on():
    model = Sum().eval()
    tensors = torch.rand(1, 1, 2, 2), torch.rand(1, 1), torch.rand(1, 1, 2, 2)
    for at, seen in (("a", [True, False, False]), ("b", [False, False, True]), ("both", [True, False, True])):
        with torch.no_grad():
            assert images_seen(model, [getattr(model, at)], tensors, (2.0,)) == seen, at
    assert images_seen(model, [None], tensors, ()) == [True, False, True]  # at the input
    assert images_seen(model, None, tensors, ()) == [True, False, True]
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_model_as_a_function_of_some_of_its_inputs_first():
    class Arguments(torch.nn.Module):
        def forward(self, *args):
            return args

    model = OfSome(Arguments(), [False, True, False, True])
    assert model("second", "fourth", "first", "third", "more") == ("first", "second", "third", "fourth", "more")
