"""Where methods stand beside each other, on numbers made by hand."""

import math

import numpy as np
import pytest

from captum_extract_aggregate.evaluation.choice.standing import COLUMNS, best_layer, standings
from captum_extract_aggregate.metrics import compare
from captum_extract_aggregate.metrics.significance import holm

RISING = np.linspace(0, 0.1, 16)
VALUES = {
    "good": 0.6 + RISING,
    "as good": 0.6 + RISING[::-1],
    "fair": 0.3 + RISING,
    "poor": 0.1 + RISING / 10,
    "chance": 0.2 + RISING[::-1] * 0.9,
    "edges": 0.2 + RISING,
}
NULLS = ["chance", "edges"]


def test_places_and_verdicts():
    found = standings("grid_pointing_game", VALUES, NULLS)
    assert {name: s.place for name, s in found.items()} == {
        "good": "best",
        "as good": "not told from the best",
        "fair": "worse",
        "poor": "worse",
        "chance": "",
        "edges": "",
    }
    verdicts = ["passes", "passes", "passes", "fails", "", ""]
    assert [s.verdict for s in found.values()] == verdicts
    assert found["good"].n == 16
    assert found["good"].low < found["good"].mean < found["good"].high


def test_p_is_the_paired_test_corrected_within_the_column():
    found = standings("grid_pointing_game", VALUES, NULLS)
    own = [compare(VALUES[name], VALUES["good"]).p for name in ("as good", "fair", "poor")]
    assert [found[name].p for name in ("as good", "fair", "poor")] == holm(own)
    assert math.isnan(found["good"].p)
    assert math.isnan(found["edges"].p)


def test_where_lower_is_better_the_limit_decides_and_nulls_are_no_rivals():
    values = {"blind": 0.9 + RISING, "told": 0.2 + RISING, "near": np.tile([0.49, 0.51], 8), "random": RISING * 0}
    found = standings("class_sensitivity", values, ["random"])
    assert [found[n].verdict for n in ("blind", "told", "near")] == ["fails", "passes", "cannot be told"]
    assert found["told"].place == "best"
    assert found["random"].place == ""


def test_undefined_values_are_counted_and_make_no_best():
    rare = np.where(np.arange(16) < 3, 0.99, math.nan)
    found = standings("relevance_mass_accuracy", VALUES | {"rare": rare, "never": RISING * math.nan}, NULLS)
    assert found["good"].place == "best"
    assert (found["rare"].n, found["rare"].undefined, round(found["rare"].mean, 9)) == (3, 13, 0.99)
    assert (found["never"].n, found["never"].undefined, found["never"].place) == (0, 16, "")
    assert math.isnan(found["never"].mean)
    assert found["never"].verdict == "cannot be told"
    none = standings("relevance_mass_accuracy", {"never": RISING * math.nan}, [])
    assert none["never"].place == ""


def test_what_only_describes_has_no_verdict_and_time_no_test():
    assert {s.verdict for s in standings("sparseness", VALUES, NULLS).values()} == {""}
    assert {(s.verdict, s.place) for s in standings("milliseconds", VALUES, NULLS).values()} == {("", "")}
    assert [c.name for c in COLUMNS.values() if not c.asks] == ["sparseness", "ms"]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"early": [0.3, 0.4], "late": [0.5, 0.4]}, "late"),
        ({"early": [0.4, 0.5], "late": [0.5, 0.4]}, "late"),  # the later of equal ones
        ({"early": [0.3, 0.3, 0.3], "late": [0.9, math.nan, math.nan]}, "early"),
        ({"early": [0.3, 0.3], "late": [0.9, math.nan]}, "late"),  # defined on half
        ({"early": [math.nan], "late": [math.nan]}, None),
    ],
)
def test_the_best_layer(shares, expected):
    assert best_layer({layer: np.array(v) for layer, v in shares.items()}) == expected
