"""Which code is the user's own, and where in it an error arose."""

import json
from pathlib import Path

import pytest
import torch

from captum_extract_aggregate._common.errors import said
from captum_extract_aggregate._common.imported import import_from
from captum_extract_aggregate._common.own_code import is_foreign, place_of

OWN = """
import torch

def itself(x):
    return x.nothing

def within_torch(x):
    return within_torchs_function(x)

def within_torchs_function(x):
    return torch.stack([x, x[:1]])
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def caught(function, *arguments):
    with pytest.raises((ValueError, RuntimeError, AttributeError, ArithmeticError)) as info:
        function(*arguments)
    error = info.value
    error.__traceback__ = error.__traceback__.tb_next  # as if it were caught by a file that is none of one's own
    return error


@pytest.mark.parametrize(("name", "line"), [("itself", 5), ("within_torch", 11)])
def test_the_innermost_place_in_a_file_of_ones_own(name, line, own):
    error = caught(import_from("measure", f"{own}:{name}"), torch.ones(3))
    assert place_of(error) == f" (own.py, line {line})"
    assert said(error).endswith(f" (own.py, line {line})")


def test_no_place_where_nothing_of_ones_own_ran():
    assert place_of(caught(json.loads, "{")) == ""
    assert place_of(caught(eval, "1 / 0")) == ""  # whose text stands in no file
    assert said(ValueError("no place")) == "ValueError: no place"


def test_what_is_installed_or_part_of_the_package_is_foreign(own):
    assert is_foreign(Path(torch.__file__))
    assert is_foreign(Path(json.__file__))
    assert is_foreign(Path(import_from.__code__.co_filename))
    assert not is_foreign(own)
    assert not is_foreign(Path(__file__))


def test_what_fails_while_it_is_imported_or_called(tmp_path):
    (tmp_path / "broken.py").write_text("\n\nimport nothing_of_this_name\n")
    with pytest.raises(ValueError, match=r"cannot be imported: .* \(broken\.py, line 3\)$"):
        import_from("model", f"{tmp_path / 'broken.py'}:build")
