"""Which inputs of a model a method explains."""

import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.insights import input_maps
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
