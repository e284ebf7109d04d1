"""The table of methods has a row for each that is registered."""

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import METHODS
from captum_extract_aggregate.attr.method_table import COLUMNS, class_name, is_of_gradients, method_table
from captum_extract_aggregate.registry import Formula, list_methods, register_method, unregister_method


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_row_for_each_method_and_a_cell_for_each_column():
    head, line, *body = rows(method_table())
    assert head == list(COLUMNS)
    assert set("".join(line)) == {"-"}
    assert [row[0].strip("`") for row in body] == list_methods()
    assert {len(row) for row in body} == {len(COLUMNS)}
    assert {class_name(name, method) for name, method in METHODS.items()} <= set(cea.__all__)


def test_ones_own_method_is_in_it():
    register_method("mine", before_the_last=True, formula=Formula("bias", "sum|max"))(cea.GradMid)
    register_method("untold")(cea.GradMid)
    try:
        *_, mine, untold = method_table().splitlines()
        assert mine == r"| `mine` | `GradMid` | bias | sum\|max | g |  | ≥ 0 | not in front of global pooling |"
        assert untold == "| `untold` | `GradMid` |  |  |  |  |  | everywhere |"
    finally:
        unregister_method("mine")
        unregister_method("untold")


def test_those_of_plain_gradients_alone():
    names = {row[0].strip("`") for row in rows(method_table(("class",), is_of_gradients))[2:]}
    assert {"NormGrad", "LayerCAM", "GradMid"} <= names
    assert not {"LRP", "GuidedBackprop", "GuidedGradCAM", "RefineCAM", "FinerCAM", "CumulativeGradCAM"} & names
