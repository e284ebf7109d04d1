"""Options that commands share, and how their texts are read."""

import re

import pytest
from typer.testing import CliRunner

from captum_extract_aggregate.attr.by_name import METHODS
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.cli.options import indices_in, names_in
from captum_extract_aggregate.registry import list_models


def help_of(command, columns):
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": str(columns)}).output


def test_the_help_lists_every_method_and_model():
    wide = help_of("explain", 900)
    assert all(name in wide for name in [*METHODS, *list_models()])


def test_no_name_is_broken_where_the_help_is_narrow():
    words = set(re.findall(r"[\w+-]+", help_of("explain", 80)))
    assert set(METHODS) <= words


def test_names_between_commas():
    assert names_in(" a, b.c ,,d ") == ("a", "b.c", "d")
    assert names_in(" , ") == ()


def test_indices_between_commas():
    assert indices_in("3, 0,12") == [3, 0, 12]
    assert indices_in("") == []
    with pytest.raises(ValueError, match=r"images is '1;2'; expected indices separated by commas"):
        indices_in("1;2")
