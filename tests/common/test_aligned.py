"""Tables as text."""

from captum_extract_aggregate._common.aligned import aligned


def test_columns_are_as_wide_as_their_longest_cell_and_no_line_ends_in_spaces():
    lines = aligned(["name", "n", ""], [["a", 1000, "best"], ["longer", 2, ""]])
    assert lines == [
        "name    n",
        "------  ----  ----",
        "a       1000  best",
        "longer  2",
    ]
