"""Tables, and how their cells are written."""

import math

from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.reporting.tables import (
    Markdown,
    Table,
    escaped,
    number,
    number_with_spread,
    p_value,
)


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


def test_a_table_in_markdown_and_csv(tmp_path):
    rows = [("=1+1", 0.1 + 0.2), (Markdown("*a*"), math.nan)]
    assert Table(("name", "a|b"), rows).markdown() == [
        "",
        r"| name | a\|b |",
        "| --- | --- |",
        "| =1+1 | 0.30000000000000004 |",
        "| *a* | nan |",
        "",
    ]
    path = Table(("name", "a|b"), iter(rows)).write_csv(tmp_path / "a.csv")
    assert path.read_text() == '"name","a|b"\n"\'=1+1",0.30000000000000004\n"*a*",nan\n'


def test_spreads_and_p_values():
    assert number_with_spread(1.0, 0.25) == "1.000 ± 0.250"
    assert number_with_spread(1.0, math.nan) == "1.000"
    assert [p_value(v) for v in (0.0123, 1e-9, math.nan)] == ["0.012", "1e-09", "undefined"]
    assert escaped("`a` *b*", keep="`") == r"`a` \*b\*"
