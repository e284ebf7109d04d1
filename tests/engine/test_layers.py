"""Layers by name, names of layers, and the inputs of a network."""

import pytest

from captum_extract_aggregate._engine.layers import (
    find_layer,
    model_of,
)


def test_layers_by_name(small_net):
    assert find_layer("conv1", small_net) is small_net.conv1
    assert find_layer("conv1", small_net.forward) is small_net.conv1
    assert find_layer(small_net.conv1, small_net) is small_net.conv1
    assert find_layer(None, small_net) is None
    with pytest.raises(ValueError, match=r"'conv4'.*did you mean 'conv"):
        find_layer("conv4", small_net)
    with pytest.raises(TypeError, match="not a model to look"):
        find_layer("conv1", lambda x: small_net(x))
    assert model_of(small_net.forward) is small_net
    assert model_of(len) is None
