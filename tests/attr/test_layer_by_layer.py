"""Methods that take one layer at a time, on several layers."""

import captum.attr
import pytest
import torch

from captum_extract_aggregate.attr.layer_by_layer import LayerByLayer


class Doubled(captum.attr.LayerActivation):
    """A method whose `attribute` takes any keyword."""

    def attribute(self, inputs, **kwargs):
        return 2 * super().attribute(inputs), kwargs


def test_maps_are_those_of_the_layers_one_by_one(small_net, images):
    layers = [small_net.conv1, small_net.conv3]
    got = LayerByLayer(captum.attr.LayerGradCam, small_net, layers).attribute(images, target=1)
    for map_, layer in zip(got, layers, strict=True):
        assert torch.equal(map_, captum.attr.LayerGradCam(small_net, layer).attribute(images, target=1))


def test_keywords_that_say_nothing_are_left_out_where_they_are_unknown(small_net, images):
    method = LayerByLayer(captum.attr.LayerActivation, small_net, [small_net.conv1])
    (got,) = method.attribute(images, target=None, attribute_to_layer_input=False)
    assert torch.equal(got, captum.attr.LayerActivation(small_net, small_net.conv1).attribute(images))
    with pytest.raises(TypeError, match="target"):
        method.attribute(images, target=1)


def test_a_method_that_takes_any_keyword_gets_all(small_net, images):
    ((_, kwargs),) = LayerByLayer(Doubled, small_net, [small_net.conv1]).attribute(images, target=None, mine=3)
    assert kwargs == {"target": None, "mine": 3}
