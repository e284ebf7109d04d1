"""RefineCAM: the literal product of GradCAM++ maps, sharing the pass."""

import pytest
import torch

import captum_extract_aggregate as cea
from tests.conftest import relative_error
from tests.reference.cams import refinecam

LAYERS = ["conv1", "bn", "conv3"]


def test_it_is_the_product_of_scaled_maps(small_net, images):
    net, x = small_net.double(), images.double()
    method = cea.RefineCAM(net, LAYERS)
    expected = refinecam(cea.GradCAMPlusPlus(net, LAYERS).attribute(x, [0, 1, 2]), (12, 12))
    got = method.attribute(x, [0, 1, 2])
    assert relative_error(got, expected) < 1e-10
    root = cea.LayerCombination(cea.GradCAMPlusPlus(net, LAYERS)).attribute(x, [0, 1, 2])
    assert relative_error(root**3, expected) < 1e-10
    together = cea.attribute_together({"it": method, "one": cea.HiResCAM(net, "conv3")}, x, [0, 1, 2])
    assert torch.equal(together["it"], got)
    assert repr(method) == "RefineCAM(model, ['conv1', 'bn', 'conv3'])"
    assert repr(cea.RefineCAM(net, LAYERS, layout="channels_first")).endswith("layout='channels_first')")


def test_which_layers(small_net, images):
    assert cea.RefineCAM(small_net).layer == list(cea.default_layers(small_net).values())
    one, single = (cls(small_net, "conv3").attribute(images, 1) for cls in (cea.RefineCAM, cea.GradCAMPlusPlus))
    assert relative_error(one, refinecam([single], (12, 12))) < 1e-5
    with pytest.raises(cea.InvalidTypeError, match="layer is None, but forward_func is no model"):
        cea.RefineCAM(lambda t: t)
