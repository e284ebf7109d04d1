"""Arguments given by name when a method is made: which its class takes, and which its `attribute`."""

import captum.attr
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.given_arguments import with_arguments
from captum_extract_aggregate.attr.shared_pass import capturing


def test_each_argument_goes_where_it_is_taken(small_net, images):
    make = with_arguments(captum.attr.LayerIntegratedGradients, {"n_steps": 3, "multiply_by_inputs": False})
    method = make(small_net, small_net.conv2)
    assert isinstance(method, captum.attr.LayerIntegratedGradients)
    assert not method.multiplies_by_inputs
    plain = captum.attr.LayerIntegratedGradients(small_net, small_net.conv2, multiply_by_inputs=False)
    torch.testing.assert_close(method.attribute(images, target=1), plain.attribute(images, target=1, n_steps=3))


def test_what_the_class_takes_changes_no_class():
    make = with_arguments(captum.attr.LayerIntegratedGradients, {"multiply_by_inputs": False})
    assert make.func is captum.attr.LayerIntegratedGradients


def test_a_method_whose_calls_have_arguments_shares_no_pass(small_net, images):
    make = with_arguments(cea.GradCAM, {"relu_attributions": False})
    signed, plain = make(small_net, small_net.conv2), cea.GradCAM(small_net, small_net.conv2)
    assert capturing(signed) is None
    together = cea.attribute_together({"signed": signed, "plain": plain}, images, target=1)
    assert together["signed"].min() < 0
    torch.testing.assert_close(together["signed"].relu(), together["plain"])


class TakesAnything(captum.attr.LayerGradCam):
    def attribute(self, inputs, **kwargs):
        return super().attribute(inputs, **kwargs)


def test_an_attribute_that_hands_everything_on(small_net, images):
    signed = with_arguments(TakesAnything, {"relu_attributions": True})(small_net, small_net.conv2)
    assert signed.attribute(images, target=1).min() == 0
    with pytest.raises(TypeError, match=r"'devise_ids' is given to TakesAnything.*; did you mean 'device_ids'\?"):
        with_arguments(TakesAnything, {"devise_ids": None})


@pytest.mark.parametrize("name", ["nsteps", "target", "layer", "return_convergence_delta"])
def test_what_neither_takes(name):
    with pytest.raises(TypeError, match=f"'{name}' is given to .* takes device_ids, .* attribute takes baselines"):
        with_arguments(captum.attr.LayerIntegratedGradients, {name: 1})
