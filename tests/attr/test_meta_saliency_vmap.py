"""Meta-saliency of many examples at once: when it is taken, and that it is the loop over the examples."""

import captum.attr
import pytest
import torch

import captum_extract_aggregate as cea
from tests.conftest import SmallNet, relative_error
from tests.networks import CifarResNet20, lively

LR = 0.01


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("make", [SmallNet, CifarResNet20], ids=["small", "resnet20"])
def test_a_batch_is_its_examples(make, vectorized):
    """Batch-mates share nothing: not the step, not the target."""
    torch.manual_seed(0)
    net = lively(make()).double()
    x = torch.randn(5, 3, 24, 24, dtype=torch.float64)
    layers = list(cea.default_layers(net).values())
    targets = torch.tensor([0, 3, 1, 1, 4])
    methods = [cea.NormGrad, cea.SelectiveNormGrad, cea.GradCAM, cea.GradCAMPlusPlus, cea.LayerGradient]
    for cls in methods:
        for steps in (1, 2):
            loss = "binary_cross_entropy" if steps == 2 else None
            arguments = {"lr": LR, "steps": steps, "loss_func": loss, "ascent": cls is cea.GradCAM}
            meta = cea.MetaSaliency(cls(net, layers), vectorized=vectorized, **arguments)
            together = meta.attribute(x, target=targets)
            loop = cea.MetaSaliency(cls(net, layers), vectorized=False, **arguments)
            for i in range(5):
                alone = loop.attribute(x[i : i + 1], target=int(targets[i]))
                assert all(relative_error(m[i : i + 1], a) < 1e-9 for m, a in zip(together, alone))


def test_the_fast_path_is_taken_and_where_not(monkeypatch):
    from captum_extract_aggregate.attr import meta_saliency as module

    results = []
    original = module.vectorized_maps

    def spy(*args):
        try:
            results.append(original(*args))
        except module.NotVectorizedError:
            results.append(None)
            raise
        return results[-1]

    monkeypatch.setattr(module, "vectorized_maps", spy)
    net = lively(CifarResNet20())
    x = torch.randn(4, 3, 16, 16)
    parameters = [p for p in net.parameters() if p.ndim == 1]
    cases = {
        "layers": (cea.MetaSaliency(cea.NormGrad(net, ["layer1", "layer3"])), x, True),
        "input": (cea.MetaSaliency(cea.LayerGradient(net)), x, True),
        "cumulative": (cea.MetaSaliency(cea.CumulativeGradCAM(net, ["layer1", "layer3"])), x, True),
        "subset": (cea.MetaSaliency(cea.NormGrad(net, "layer3"), parameters=parameters), x, True),
        "real layer": (cea.MetaSaliency(cea.NormGrad(net, "layer3.0.conv1", virtual_identity=False)), x, False),
        "rules": (cea.MetaSaliency(cea.GuidedBackprop(net)), x, False),
        "few examples": (cea.MetaSaliency(cea.NormGrad(net, "layer3")), x[:2], None),
        "large pictures": (cea.MetaSaliency(cea.NormGrad(net, "layer3")), torch.randn(4, 3, 72, 72), None),
        "captum": (cea.MetaSaliency(captum.attr.Saliency(net)), x, False),
    }
    for name, (meta, inputs, taken) in cases.items():
        results.clear()
        got = meta.attribute(inputs, target=2)
        assert [r is not None for r in results] == ([] if taken is None else [taken]), name
        meta.vectorized = False
        for fast, slow in zip(got if isinstance(got, list) else [got], meta.attribute(inputs, target=2)):
            assert relative_error(fast, slow if isinstance(got, list) else fast) < 1e-5, name
        if not isinstance(got, list):
            assert relative_error(got, meta.attribute(inputs, target=2)) < 1e-5, name


@pytest.mark.parametrize("layer", ["conv1", "bn", ["conv1", "conv3"]])
def test_biases_are_each_examples_own(small_net, layer):
    net = small_net.double()
    x = torch.randn(5, 3, 12, 12, dtype=torch.float64)
    methods = [cea.FullGrad] if isinstance(layer, list) else [cea.FullGrad, cea.BiasAttribution]
    for cls in methods:
        got = cea.MetaSaliency(cls(net, layer), lr=0.1).attribute(x, target=1)
        loop = cea.MetaSaliency(cls(net, layer), lr=0.1, vectorized=False).attribute(x, target=1)
        assert relative_error(got, loop) < 1e-10
