"""Functions and classes of the user's own, from a file or a module that is named in text."""

import collections

import pytest

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.imported import build_from, import_from

OWN = """
import math
LIMIT = 3
class Model:
    def __init__(self, width=1):
        self.width = width
def make(width, depth=2):
    return width * depth
def leaves():
    raise SystemExit(3)
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_from_a_file_and_from_a_module(own):
    assert import_from("model", f"{own}:make")(4) == 8
    assert import_from("model", f"{own}:Model")().width == 1
    assert import_from("model", "collections:OrderedDict") is collections.OrderedDict
    assert import_from("model", "os.path:join")("a", "b").endswith("b")


def test_arguments_reach_the_function(own):
    assert build_from("model", f"{own}:make", width=4, depth=5) == 20
    assert build_from("model", f"{own}:Model", width=7).width == 7


def test_a_file_is_read_anew_each_time(own):
    before = import_from("model", f"{own}:make")
    own.write_text(OWN.replace("width * depth", "width + depth"))
    assert (before(4, 5), import_from("model", f"{own}:make")(4, 5)) == (20, 9)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("missing.py:make", "there is no file 'missing.py'"),
        ("no_such_module_at_all:make", "'no_such_module_at_all' cannot be imported: ModuleNotFoundError"),
        ("make", "'' cannot be imported"),
        ("{own}:mkae", "is 'mkae', which is unknown; did you mean 'make'"),
        ("{own}:LIMIT", "is 'LIMIT', which is unknown"),
        ("{wrong}:make", "cannot be imported: SyntaxError"),
        ("{leaving}:make", "cannot be imported: SystemExit"),
    ],
)
def test_what_cannot_be_imported(own, tmp_path, spec, said):
    wrong, leaving = tmp_path / "wrong.py", tmp_path / "leaving.py"
    wrong.write_text("def make(:\n")
    leaving.write_text("raise SystemExit(1)\n")
    with pytest.raises(cea.InvalidValueError) as error:
        import_from("model", spec.format(own=own, wrong=wrong, leaving=leaving))
    assert str(error.value).startswith("model is ")
    assert said in str(error.value)


@pytest.mark.parametrize(("name", "said"), [("make", "TypeError"), ("leaves", "SystemExit")])
def test_a_function_that_fails_is_our_error(own, name, said):
    with pytest.raises(cea.InvalidValueError, match=f"which failed: {said}") as error:
        build_from("model", f"{own}:{name}")
    assert error.value.__cause__ is not None
