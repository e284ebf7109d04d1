"""What values of many pictures allow to say of maps, on numbers made by hand."""

import math

import numpy as np
import pytest

from captum_extract_aggregate.evaluation.choice.choosing import decide
from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.metrics import compare, holm

A, B, C = (MethodAtLayer(name, "layer") for name in "abc")


def around(centre, n=20, width=0.1, seed=0):
    return centre + width * (np.random.default_rng(seed).random(n) - 0.5)


def test_a_map_that_fails_is_out_and_the_best_of_the_others_is_recommended():
    choice = decide(
        {
            "class_sensitivity": {A: around(0.2), B: around(0.9), C: around(0.3, seed=1)},
            "removal_contrast": {A: around(0.5), B: around(2.0), C: around(0.4, seed=1)},
        },
        images=20,
    )
    assert choice.recommended is choice.candidates[0]
    assert [c.answers["class_sensitivity"].verdict for c in choice.candidates] == ["yes", "no", "yes"]
    assert [c.is_best for c in choice.candidates] == [True, True, False]  # b has the largest removal contrast
    assert choice.equals == ()
    assert choice.reasons[1:] == ("Against c at layer it is better in other class and removal contrast.",)


def test_p_values_are_corrected_over_the_whole_table_and_medians_are_those_of_the_values():
    values = {"class_sensitivity": {A: around(0.45, 8, 0.3), B: around(0.55, 8, 0.3, 1)}}
    choice = decide(values, 8)
    own = [compare(v, np.full(8, 0.5)) for v in values["class_sensitivity"].values()]
    answers = [c.answers["class_sensitivity"] for c in choice.candidates]
    assert [a.p for a in answers] == holm([test.p for test in own])
    assert [a.median for a in answers] == pytest.approx([np.median(v) for v in values["class_sensitivity"].values()])
    assert all(a.low <= a.median <= a.high for a in answers)


def test_what_a_few_pictures_cannot_tell():
    few = {"removal_contrast": {A: around(0.5, 4), B: around(0.6, 4)}}  # no p below 1/8
    choice = decide(few, 4)
    assert {c.answers["removal_contrast"].verdict for c in choice.candidates} == {"cannot be told"}
    assert choice.recommended is None
    assert choice.reasons == ("No question can be answered: take more pictures.",)
    assert choice.sentence == "Take none of these maps: no answer is certain."


def test_maps_that_cannot_be_told_apart():
    same = around(0.2)
    choice = decide({"class_sensitivity": {A: same, B: same.copy(), C: around(0.4)}}, 20)
    assert choice.equals == ("b at layer",)
    assert "cannot be told from b at layer" in str(choice)
    assert "Against c at layer it is better in other class." in choice.reasons


def test_where_every_map_fails():
    choice = decide({"class_sensitivity": {A: around(0.9), B: around(0.8)}}, 20)
    assert choice.recommended is None
    assert choice.sentence == "Take none of these maps: each fails a question."
    assert choice.reasons == ("A map that hardly depends on the class: a at layer, b at layer.",)


def test_undefined_values_are_counted_and_say_nothing():
    holes = around(0.2)
    holes[:5] = math.nan
    choice = decide({"class_sensitivity": {A: holes, B: np.full(20, math.nan)}}, 20)
    first, second = (c.answers["class_sensitivity"] for c in choice.candidates)
    assert (first.n, first.undefined) == (15, 5)
    assert (second.n, second.undefined, second.verdict, str(second)) == (0, 20, "cannot be told", "undefined ?")
    assert choice.recommended is choice.candidates[0]


def test_a_question_where_higher_is_better():
    choice = decide({"grid_pointing_game": {A: around(0.15), B: around(0.6), C: around(0.25)}}, 20)
    assert [c.answers["grid_pointing_game"].verdict for c in choice.candidates][:2] == ["no", "yes"]
    assert choice.recommended.method == "b"
    assert next(iter(choice.table().rows))[0] == "b"  # the recommended one is told first


def test_what_is_written(tmp_path):
    choice = decide({"removal_contrast": {A: around(0.5), B: around(0.1, width=1)}}, 20, ["A question is left out."])
    text, numbers, picture = choice.write(tmp_path / "choice")
    assert text.read_text() == f"{choice}\n"
    assert text.read_text().endswith("A question is left out.\n")
    assert len(numbers.read_text().splitlines()) == 3
    assert picture.stat().st_size > 5000
