"""One pass for several methods."""

import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate.attr.one_pass import finished, maps_per_target, places_of, stacked


def test_one_forward_gives_what_each_method_gives_by_itself(small_net, images):
    methods = {"a": cea.NormGrad(small_net, ["conv1", "conv3"]), "b": cea.GradCAM(small_net, "conv3")}
    calls = []
    hook = small_net.register_forward_pre_hook(lambda module, args: calls.append(1))
    found = maps_per_target(methods, images, [1, 2], None, to_input=False)
    hook.remove()
    assert len(calls) == 1
    for target, maps in zip((1, 2), found, strict=True):
        assert torch.equal(maps["b"], methods["b"].attribute(images, target))
        for got, alone in zip(maps["a"], methods["a"].attribute(images, target), strict=True):
            assert torch.equal(got, alone)


def test_places_of_all_layers_in_order():
    first, second, third = Place(None, "input"), Place(torch.nn.ReLU()), Place(torch.nn.ReLU())
    assert places_of([(first,), (second, third)]) == [first, second, third]


def test_maps_are_of_the_inputs_precision():
    inputs = (torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.float64))
    evidence = Evidence(torch.zeros(1), {}, {}, {}, inputs, ())
    assert finished(torch.zeros(1, 1, 2), evidence).dtype == torch.float64


def test_results_of_one_form_are_stacked():
    maps = [[torch.full((2, 1, 3), float(t)), (torch.full((2, 1), float(t)),)] for t in range(4)]
    first, (second,) = stacked(maps)
    assert first.shape == (2, 4, 1, 3)
    assert second[0, :, 0].tolist() == [0, 1, 2, 3]
