"""What the page is answered: the maps are those of `explain`."""

import base64
import json
import math

import numpy as np
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.explanation.trust import Question, Trust
from captum_extract_aggregate.live.asked import Choice, Doubt, Judge, Look, Maps
from captum_extract_aggregate.live.work import Work, line_of, picture_told
from tests.live.given import EVIL, gallery, networks


@pytest.fixture(scope="module")
def work():
    return Work(networks(), gallery(), "gradcam")


def values(data):
    bits = np.frombuffer(base64.b64decode(data["values"]), np.int8).reshape(data["height"], data["width"])
    return torch.tensor(bits / 127 * data["scale"])


def test_what_is_offered(work):
    offer = work.offer()
    assert offer["models"] == [{"name": EVIL, "scenes": False}, {"name": "scene-resnet", "scenes": True}]
    about = {m["name"]: m for m in offer["methods"]}
    assert about["lrp"]["arguments"]["gamma"][:2] == ["0", "0.25"]
    assert about["captum:LayerConductance"] == {
        "name": "captum:LayerConductance", "joins": False, "input": False, "arguments": {"n_steps": 25}
    }  # fmt: skip
    assert about["fullgrad"]["joins"]
    assert (
        work.pictures()[1]
        == {"id": "scene-0", "name": "scene 0", "scene": True}
        == picture_told(work.gallery["scene-0"])
    )


def test_what_a_model_sees(work):
    found = work.look(Look(picture="scene-0", model="scene-resnet"))
    expected = cea.explain("scene-resnet")
    assert [index for index, _, _ in found["scores"]] == expected.scores.argsort(descending=True).tolist()
    assert found["layers"] == ["layer1", "layer2", "layer3", "layer4"]
    assert found["usual"]["gradcam"] == ["layer4"]
    assert found["usual"]["fullgrad"] == ["all layers"]
    assert found["right"] is (found["scores"][0][0] in work.gallery["scene-0"].labels)
    assert work.look(Look(picture="scene-0", model=EVIL))["right"] is None
    judged = {id: work.look(Look(picture=id, model="scene-resnet"))["right"] for id in ("scene-0", "scene-1")}
    assert work.right(Judge(model="scene-resnet")) == judged
    assert work.right(Judge(model=EVIL)) == {}


def test_maps_are_those_of_explain_and_failures_are_told_in_their_place(work):
    choices = [
        Choice(model="scene-resnet", method="gradcam"),
        Choice(model="scene-resnet", method="legrad"),
        Choice(model="scene-resnet", method="linear-approximation", layer="layer2", target=3),
        Choice(model="scene-resnet", method="normgrad", layer="fc"),
        Choice(model="scene-resnet", method="gradcam", target=10),
        Choice(model=EVIL, method="captum:LayerConductance", layer="2", arguments={"n_steps": 3}),
        Choice(model="scene-resnet", method="fullgrad"),
    ]
    events = list(work.maps(Maps(picture="scene-0", maps=choices)))
    assert [e["done"] for e in events if e["state"] == "begun"] == list(range(7))
    assert events[-1] == {"state": "ended", "done": 7, "of": 7}
    found = {e["map"]: e for e in events if e["state"] in ("made", "failed")}
    told = {i: e["error"] for i, e in found.items() if e["state"] == "failed"}
    assert set(told) == {1, 3, 4}
    assert "attention" in told[1]
    assert "no positions" in told[3]
    assert "expected 0 to 9" in told[4]
    for i, method, layer, target in ((0, "gradcam", "layer4", None), (2, "linear-approximation", "layer2", 3)):
        expected = cea.explain("scene-resnet", target=target, methods=method, layers=layer)
        map_ = expected.maps[method][layer].sum(0).double()
        assert (found[i]["layer"], found[i]["target"]) == (layer, expected.target)
        assert found[i]["score"] == pytest.approx(float(expected.scores[expected.target]), abs=1e-4)
        torch.testing.assert_close(values(found[i]["data"]), map_, rtol=0, atol=found[i]["data"]["scale"] / 250)
    assert found[6]["layer"] == "all layers"
    assert found[5]["data"]["scale"] > 0


def test_trust_is_that_of_explain_and_tells_its_steps(work):
    steps = []
    choice, photo = Choice(model=EVIL, method="gradcam", layer="2"), work.gallery.all()[0]
    found = work.trust(Doubt(picture=photo.id, map=choice), lambda *step: steps.append(step))
    network = work.networks[EVIL]
    expected = cea.explain(network.model, network.see(photo).x, methods="gradcam", layers="2").trust()
    assert found["sentence"] == expected.sentence
    (answer,) = expected.answers
    assert (found["classes"], found["learned"]) == pytest.approx((answer.classes, answer.learned))
    assert math.isnan(answer.kept)  # the tiny network's decision never changes
    assert found["kept"] is found["chance"] is None
    assert [step[:2] for step in steps] == [(i, 4) for i in range(4)]


def test_what_is_undefined_in_an_answer_is_null(work, monkeypatch):
    nan = math.nan
    answers = (Question("gradcam", "2", nan, nan, nan),)
    made = lambda found, report: Trust(answers, (nan, nan), nan)  # noqa: E731
    monkeypatch.setattr("captum_extract_aggregate.explanation.trust.trust", made)
    asked = Doubt(picture=work.gallery.all()[0].id, map=Choice(model=EVIL, method="gradcam", layer="2"))
    found = work.trust(asked, lambda *step: None)
    assert "NaN" not in json.dumps(found)
    assert [found[name] for name in ("classes", "learned", "kept", "chance")] == [None] * 4
    assert found["null"] == [None, None]


def test_an_error_in_one_line():
    assert line_of(ValueError("a\n b")) == "a b"
    assert line_of(RuntimeError("a")) == "RuntimeError: a"
    assert len(line_of(ValueError("a" * 1000))) == 400
