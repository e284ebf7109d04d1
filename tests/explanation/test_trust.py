"""Three questions to the maps of one picture, and what chance would answer."""

import math
import threading

import pytest
import torch
from tqdm import tqdm

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
        "None looks the same for another class (flat, which says nothing: a at l). "
        "Hardly depend on what was learned: b at l (flat, which says nothing: a at l)."
    )
    assert Trust((flat,), (0.0, 0.1), 0.1).sentence.startswith(
        "Of how maps look for another class nothing can be told: one of each two is flat. "
        "Of how maps look on a random network nothing can be told"
    )
    good = Question("c", "l", 0.2, 0.1, 0.1)
    assert Trust((good,), (0.0, 0.1), 0.1).sentence.startswith(
        "None looks the same for another class. None looks the same on a random network. One picture"
    )


def test_a_decision_that_never_changes_is_told():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    net = torch.nn.Sequential(*net, torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[-1].bias.copy_(torch.tensor([100.0, 0.0]))  # far from the other class, whatever the picture
    trust = cea.explain(net, torch.rand(1, 3, 8, 8), methods="gradcam", layers="0").trust()
    assert math.isnan(trust.answers[0].kept)
    assert math.isnan(trust.chance)
    assert [line.split()[-2:] for line in str(trust).splitlines()[1:3]] == [["no", "change"]] * 2
    assert "The decision did not change, whatever was removed: removal says nothing here." in trust.sentence
    one = Trust((Question("a", "l", 0.0, 0.0, -0.3),), (0.0, 0.1), math.nan)  # chance alone changes nothing
    assert [line.split()[-1] for line in str(one).splitlines()[1:3]] == ["-0.30", "change"]
    assert "did not change" not in one.sentence


def test_it_waits_for_no_bar_that_another_thread_left(asked):
    """An interrupt within a bar of tqdm's may leave its lock with the thread that it hit."""
    answers = []
    with tqdm.get_lock():
        other = threading.Thread(target=lambda: answers.append(asked[0].trust()), daemon=True)
        other.start()
        other.join(60)
    assert [str(answer) for answer in answers] == [str(asked[1])]


def test_equal_seeds_give_equal_answers(asked):
    assert str(asked[0].trust(3)) == str(asked[0].trust(3))
