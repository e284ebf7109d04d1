"""Three questions to the maps of one picture, and what chance would answer."""

import math

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.explanation.trust import Question, Trust
from captum_extract_aggregate.metrics import class_sensitivity, pixel_removal


@pytest.fixture(scope="module")
def asked():
    found = cea.explain("scene-resnet", seed=5, methods="normgrad,linear-approximation", layers="layer3")
    before = {name: value.clone() for name, value in found.model.state_dict().items()}
    answers = found.trust()
    assert all(torch.equal(before[name], value) for name, value in found.model.state_dict().items())
    return found, answers


def test_the_answers_are_those_of_the_measures(asked):
    found, trust = asked
    assert [(a.method, a.layer) for a in trust.answers] == [("normgrad", "layer3"), ("linear-approximation", "layer3")]
    removed = []
    for answer, cls in zip(trust.answers, (cea.NormGrad, cea.LinearApproximation)):
        method = cls(found.model, "layer3")
        assert answer.classes == pytest.approx(float(class_sensitivity(method, found.x, found.model)), abs=1e-4)
        map_ = upsample(method.attribute(found.x, target=found.target), found.x.shape[2:])
        removed.append(float(pixel_removal(found.model, found.x, map_, order="least", step=576).e))
    kept = [a.kept for a in trust.answers]
    assert kept[0] - kept[1] == pytest.approx(removed[0] - removed[1], abs=1e-4)
    assert trust.answers[0].classes > 0.5 > abs(trust.answers[1].classes)  # positive norms hardly know the class


def test_it_is_told_in_a_table_and_a_sentence(asked):
    trust = asked[1]
    lines = str(trust).splitlines()
    assert lines[0].split() == ["other", "class", "random", "network", "removal", "over", "chance"]
    assert [line.split()[0] for line in lines[1:4]] == ["normgrad", "linear-approximation", "maps"]
    assert lines[-1].startswith("Hardly depend on the class here: normgrad at layer3.")


def test_the_sentence_by_hand():
    flat = Question("a", "l", math.nan, math.nan, 0.1)
    bad = Question("b", "l", 0.2, 0.9, -0.1)
    assert "one is flat" in str(Trust((flat,), (0.0, 0.1), 0.1))
    assert Trust((flat, bad), (0.0, 0.1), 0.1).sentence.startswith(
        "All maps depend on the class here. Hardly depend on what was learned: b at l."
    )
    assert "None looks the same on a random network." in Trust((flat,), (0.0, 0.1), 0.1).sentence


def test_equal_seeds_give_equal_answers(asked):
    assert str(asked[0].trust(3)) == str(asked[0].trust(3))
