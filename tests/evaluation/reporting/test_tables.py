"""Tables, and how their cells are written."""

import math

from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.reporting.tables import escaped, number


def test_words_and_numbers():
    assert escaped("class_sensitivity") == "class_sensitivity"
    assert escaped("a|b\nc") == r"a\|b c"
    assert escaped("_x_") == r"\_x\_"
    assert [number(v) for v in (0.0, 0.12345, -12.0, 1e-5, math.nan, math.inf)] == [
        "0.000",
        "0.123",
        "-12.000",
        "1e-05",
        "undefined",
        "inf",
    ]
    assert MethodAtLayer("a", "b") == ("a", "b")
