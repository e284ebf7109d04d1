"""Outputs that hold the scores somewhere: what is taken, and where the user has to say it."""

import dataclasses
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import captum.attr
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.outputs import find_output, find_scores
from captum_extract_aggregate.metrics import (
    class_sensitivity,
    completeness_gap,
    parameter_randomization,
    pixel_removal,
)
from captum_extract_aggregate.scores import SelectedOutput

A, B = torch.rand(2, 3), torch.rand(2, 4)


@dataclasses.dataclass
class Output:
    scores: torch.Tensor
    hidden: tuple | None = None


Named = namedtuple("Named", "logits features")


@pytest.mark.parametrize(
    "output",
    [
        A,
        {"logits": A},
        {"logits": A, "pred_boxes": B},
        OrderedDict(out=A, aux=B),
        {"out": A},
        {"anything": A, "loss": None, "hidden": (B, B)},
        Output(A),
        Output(A, (B,)),
        Named(A, B),
        SimpleNamespace(logits=A, hidden=B),
    ],
)
def test_what_tells_itself_is_taken(output):
    assert find_scores(output) is A


@pytest.mark.parametrize("output", [{"kind": A, "breed": B}, {"aux": A, "other": B}, (A, B), [A, B]])
def test_several_are_listed_with_the_cure(output):
    with pytest.raises(TypeError, match=r"\(2, 3\).*\(2, 4\).*SelectedOutput\(model, output="):
        find_scores(output)


@pytest.mark.parametrize("output", [None, 3, {}, [{"boxes": A}], {"hidden": (A, B)}])
def test_nothing_to_take_is_an_error(output):
    with pytest.raises(TypeError, match="expected a tensor of scores"):
        find_scores(output)


def test_an_output_by_its_name():
    assert find_output({"kind": A, "breed": B}, "breed") is B
    assert find_output((A, B), 1) is B
    with pytest.raises(ValueError, match="did you mean 'breed'"):
        find_output({"kind": A, "breed": B}, "bred")
    with pytest.raises(ValueError, match=r"returned a single tensor \(2, 3\); expected no output="):
        find_output(A, "logits")


def test_the_cure_names_what_may_be_scores():
    with pytest.raises(TypeError, match="output='pooled'"):
        find_scores({"tokens": torch.zeros(2, 5, 3), "pooled": A})
    with pytest.raises(TypeError, match="output='loss_logits'"):
        find_scores({"tokens": torch.zeros(2, 5, 3), "pooled": A, "loss_logits": B})


class Net(nn.Module):
    """Says the same in three ways."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, 4)

    def forward(self, x):
        scores = self.fc(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))
        return {"tensor": scores, "dict": {"logits": scores}, "object": Output(scores)}[self.how]


class Two(Net):
    """Says several things, none of which is called as scores are."""

    def forward(self, x):
        scores = super().forward(x)
        return {"kind": scores, "breed": 2 * scores}


X = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
PLAIN = Net("tensor").eval()


def methods(net):
    conv = net.conv1
    return {
        "normgrad": cea.NormGrad(net, "conv1"),
        "lrp": cea.LRP(net, "conv1"),
        "guided": cea.GuidedBackprop(net, None),
        "fullgrad": cea.FullGrad(net),
        "meta": cea.MetaSaliency(cea.GradCAM(net, "conv1")),
        "meta, one by one": cea.MetaSaliency(cea.GradCAM(net, "conv1"), vectorized=False),
        "meta of Captum's": cea.MetaSaliency(captum.attr.LayerGradCam(net, conv)),
        "meta of Captum's of a function": cea.MetaSaliency(captum.attr.Saliency(lambda x: net(x)), model=net),
        "combined": cea.LayerCombination(cea.NormGrad(net, ["conv1", "conv2"])),
        "combined of Captum's": cea.LayerCombination(captum.attr.LayerGradCam(net, [conv, net.conv2])),
    }


@pytest.mark.parametrize("how", ["dict", "object"])
@pytest.mark.parametrize("name", methods(PLAIN))
def test_methods_explain_what_holds_the_scores(how, name):
    net = Net(how).eval()
    found, expected = (methods(n)[name].attribute(X, target=2) for n in (net, PLAIN))
    assert torch.equal(found, expected)
    assert not isinstance(net(X), torch.Tensor)
    assert not net._forward_hooks


@pytest.mark.parametrize("how", ["dict", "object"])
def test_captums_methods_in_company(how):
    net = Net(how).eval()
    together = {"own": cea.NormGrad(net, "conv1"), "captum": captum.attr.InputXGradient(net)}
    maps = cea.attribute_together(together, X, target=1)
    assert torch.equal(maps["captum"], captum.attr.InputXGradient(PLAIN).attribute(X, target=1))


def test_captums_methods_where_no_tensor_is_the_scores():
    net = Two("tensor").eval()
    with pytest.raises(TypeError, match=r"SelectedOutput\(model, output='kind'\)"):
        cea.attribute_together({"captum": captum.attr.Saliency(net)}, X, target=1)

    def activity(net):  # which needs no scores
        return cea.LayerCombination(captum.attr.LayerActivation(net, [net.conv1, net.conv2])).attribute(X)

    assert torch.equal(activity(net), activity(PLAIN))


@pytest.mark.parametrize("how", ["dict", "object"])
def test_measures_take_what_holds_the_scores(how):
    def measured(net):
        method = cea.NormGrad(net, "conv1")
        maps = method.attribute(X, target=1)
        return [
            pixel_removal(net, X, maps, step=16).e,
            class_sensitivity(method, X, net),
            completeness_gap(net, X, maps, target=1),
            parameter_randomization(method, net, X, target=1).values,
            cea.ActivityAttribution(net, "conv1").compute_convergence_delta(X, 1),
        ]

    for found, expected in zip(measured(Net(how).eval()), measured(PLAIN)):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_the_default_layers_do_not_depend_on_the_output():
    assert list(cea.default_layers(Net("dict").eval(), X)) == list(cea.default_layers(PLAIN, X))


def test_an_output_that_is_selected():
    net = Two("tensor").eval()
    found = cea.LinearApproximation(SelectedOutput(net, output="breed"), "conv1").attribute(X, target=2)
    torch.testing.assert_close(found, 2 * cea.LinearApproximation(PLAIN, "conv1").attribute(X, target=2))
