"""What the page offers, and what it does not."""

import re
from types import SimpleNamespace

import pytest

from captum_extract_aggregate import insights
from captum_extract_aggregate.attr.by_name import METHODS
from captum_extract_aggregate.insights import offered
from tests.insights.given import needs_insights, of_insights


@needs_insights
class TestSeveralInputs:
    def test_what_nobody_offers_is_refused_without_a_server_too(self, model, x):
        insights.register(model, x)
        for name, arguments, said in (
            ("Feature Ablation", {"patches": 1_000_000}, "patches is 1000000; expected a whole number from 1 to 32"),
            ("rectgrad", {"percentile": 101}, "percentile is 101; expected a whole number from 1 to 100"),
            ("lrp", {"gamma": "nan"}, "gamma is 'nan'; expected one of '0'"),
            ("normgrad", {"virtual": "no"}, "'virtual', which is unknown"),
        ):
            with pytest.raises(ValueError, match=re.escape(said)):
                of_insights(model, (x,), name, **arguments)


class Field:
    """A field of the page, as Captum's configuration makes it."""

    def __init__(self, value, limit=None):
        self.value, self.limit = value, limit


class Number(Field):
    type = "number"


class Word(Field):
    type = "enum"


class Typed(Field):
    type = "string"


CONFIG = SimpleNamespace(NumberConfig=Number, StrEnumConfig=Word, StrConfig=Typed)


def test_every_method_is_offered_and_captums_layer_methods_too():
    found = offered.names()
    assert found[: len(METHODS)] == list(METHODS)
    assert all(offered.is_captums(name) == name.startswith("captum:") for name in found)
    assert len(set(found)) == len(found)
    assert {name: offered.offered(name) for name in found if offered.is_captums(name)} == {
        "captum:GuidedGradCam": {},
        "captum:InternalInfluence": {"n_steps": 25},
        "captum:LayerActivation": {},
        "captum:LayerConductance": {"n_steps": 25},
        "captum:LayerDeepLift": {},
        "captum:LayerGradCam": {},
        "captum:LayerGradientXActivation": {},
        "captum:LayerIntegratedGradients": {"n_steps": 25},
    }


def test_words_stand_for_values():
    shown = offered.fields(CONFIG, "normgrad")
    assert shown["layer"].value == ""
    word = shown["virtual_identity"]
    assert set(word.limit) == {"yes", "no"}
    assert offered.values_of("normgrad", {"virtual_identity": "no"}) == {"virtual_identity": False}
    assert offered.values_of("lrp", {"gamma": "0.25"}) == {"gamma": 0.25}
    assert offered.values_of("rectgrad", {"percentile": 90}) == {"percentile": 90}
    assert "layer" not in offered.fields(CONFIG, "fullgrad")
    assert offered.fields(CONFIG, "captum:LayerConductance")["n_steps"].limit == (1, 100)


def test_what_a_field_takes():
    fields = {"n": Number(3, (1, 5)), "word": Word("a", ["a", "b"]), "text": Typed("")}
    offered.check_arguments("m", {"n": 5, "word": "b", "text": "x" * 200}, fields)
    for given, said in (
        ({"n": 6}, "n is 6; expected a whole number from 1 to 5"),
        ({"n": True}, "n is True; expected a whole number"),
        ({"word": "c"}, "word is 'c'; expected one of 'a', 'b'"),
        ({"text": "x" * 201}, "expected at most 200 printable characters"),
        ({"text": "a\n"}, "printable"),
        ({"wrod": "a"}, "an argument of m is 'wrod', which is unknown; did you mean 'word'"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            offered.check_arguments("m", given, fields)
