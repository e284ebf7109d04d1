"""A model with another output: the maps of a function by hand, the model's names, and the model as it was."""

import copy
import functools

import captum.attr
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import parameter_randomization
from captum_extract_aggregate.scores import (
    ClassContrast,
    Detection,
    EmbeddingDirection,
    EmbeddingSimilarity,
    Score,
    SegmentationRegion,
    SelectedOutput,
)
from tests.scores.cases import MASK, NET, SCORES, Detector, Net, T, X, says


@pytest.mark.parametrize("name", SCORES)
def test_the_maps_are_those_of_a_function_by_hand(name):
    score, by_hand, target = SCORES[name]
    of_hand = None if by_hand(X).ndim == 1 else target
    torch.testing.assert_close(
        score(X) if target is None else score(X)[:, target], by_hand(X) if of_hand is None else by_hand(X)[:, of_hand]
    )
    before = copy.deepcopy(NET.state_dict())
    found = cea.LinearApproximation(score, "box").attribute(X, target=target)
    if name in ("against one", "against two"):  # by hand the network runs twice
        one = cea.LinearApproximation(NET, "box").attribute
        others = [1] if name == "against one" else [0, 3]
        expected = one(X, target=2) - sum(one(X, target=c) for c in others) / len(others)
    else:
        expected = cea.LinearApproximation(by_hand, NET.box).attribute(X, target=of_hand)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    alone = torch.cat([cea.LinearApproximation(score, "box").attribute(x[None], target=target) for x in X])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(value, before[key]) for key, value in NET.state_dict().items())
    assert NET.state_dict().keys() == before.keys()


@pytest.mark.parametrize("name", SCORES)
def test_everything_works_through_a_score(name):
    score, _, target = SCORES[name]
    assert [n for n, _ in score.named_modules()] == [n for n, _ in NET.named_modules()]
    assert score.config == "the model's"
    saliency = captum.attr.Saliency(score).attribute(X, target=target)
    assert saliency.shape == X.shape
    assert cea.FullGrad(score).attribute(X, target=target).shape == (3, 1, 24, 24)
    method = cea.NormGrad(score, "box")
    stepped = cea.MetaSaliency(method, lr=0.1).attribute(X, target=target)
    assert not torch.equal(stepped, method.attribute(X, target=target))
    result = parameter_randomization(method, score, X, target=target, layers=["vectors", "box"])
    assert result.stages == ("vectors", "box")


def test_a_score_is_copied_with_its_model():
    score = EmbeddingSimilarity(NET.features, T)
    other = copy.deepcopy(score)
    with torch.no_grad():
        other.box.weight.zero_()
    assert bool(NET.box.weight.any())
    assert not torch.equal(other(X), score(X))


def test_the_mode_is_the_models():
    net = Net().eval()
    score = SelectedOutput(net)
    assert not score.training
    score.train()
    assert net.training
    assert net.box.training
    net.eval()
    assert not score.training


def test_a_score_of_a_score():
    inner = SelectedOutput(NET)
    found = cea.NormGrad(ClassContrast(inner, against=1), "box").attribute(X, target=2)
    assert torch.equal(found, cea.NormGrad(ClassContrast(NET, against=1), "box").attribute(X, target=2))


@pytest.mark.parametrize("wrapped", [nn.DataParallel, torch.compile])
def test_a_wrapped_model(wrapped, no_gpu):
    score = ClassContrast(SelectedOutput(wrapped(NET)), against=1)
    found = cea.NormGrad(score, "box").attribute(X, target=2)
    assert torch.equal(found, cea.NormGrad(ClassContrast(NET, against=1), "box").attribute(X, target=2))


MASKS = torch.stack([MASK, MASK.roll(5, 0), MASK.roll(9, 1)])
DETECTOR = Detector()
OF_ARGUMENTS = {
    "an output": (SelectedOutput, NET, "box", 2, ()),
    "a contrast": (ClassContrast, NET, "box", 2, ()),
    "a similarity": (lambda model: EmbeddingSimilarity(model, T), NET.features, "box", 1, ()),
    "a direction": (lambda model: EmbeddingDirection(model, T[0]), NET.features, "box", None, ()),
    "a pixel": (lambda model: SegmentationRegion(model, pixel=(5, 9)), NET.dense, "box", 3, ()),
    "masks": (SegmentationRegion, NET.dense, "box", 3, (MASKS,)),
    "boxes": (Detection, DETECTOR, "body", None, (DETECTOR.BOXES[[0, 1, 0]], DETECTOR.LABELS[[0, 1, 0]])),
}


@pytest.mark.parametrize("name", OF_ARGUMENTS)
def test_additional_arguments_go_to_the_model_and_the_last_ones_to_the_score(name):
    build, model, layer, target, own = OF_ARGUMENTS[name]
    found = cea.NormGrad(build(model), layer).attribute(X, target, (3.0, *own))
    fixed = cea.NormGrad(build(functools.partial(model, scale=3.0)), layer).attribute(X, target, own or None)
    torch.testing.assert_close(found, fixed)
    assert not torch.allclose(found, cea.NormGrad(build(model), layer).attribute(X, target, own or None))


def test_the_base_is_for_scores_of_ones_own():
    class Total(Score):
        def score(self, output, inputs, *own):
            return output.sum(1)

    found = cea.LinearApproximation(Total(NET), "box").attribute(X)
    torch.testing.assert_close(
        found, sum(cea.LinearApproximation(NET, "box").attribute(X, target=c) for c in range(4)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: SelectedOutput(lambda x: x), "model is a function"),
        (lambda: SelectedOutput(NET, output=1.5), "output is a float"),
    ],
)
def test_mistakes(wrong, told):
    says(wrong, told)
