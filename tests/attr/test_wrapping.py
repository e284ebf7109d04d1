"""A method around another has that one's form."""

import captum.attr
import pytest

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.wrapping import WrappingAttribution


@pytest.mark.parametrize("around", [cea.LibraGrad, cea.FinerCAM])
def test_it_has_the_wrapped_method_s_form(around, small_net, images):
    inner = cea.LinearApproximation(small_net, ["bn", "conv3"], layout="channels_first", call=0)
    method = around(inner)
    assert isinstance(method, WrappingAttribution)
    assert (method.layer, method.layout, method.call) == (inner.layer, "channels_first", 0)
    assert (method.joins_layers, method.gives_lists, method.multiplies_by_inputs) == (False, True, True)
    method.layer = small_net.conv1  # as TCAV does
    assert inner.layer is small_net.conv1
    assert method.attribute(images, 1).shape == (3, 1, 12, 12)
    of_input = around(captum.attr.Saliency(small_net))
    assert (of_input.layer, of_input.joins_layers, of_input.gives_lists) == (None, True, False)
