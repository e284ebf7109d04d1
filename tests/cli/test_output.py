"""What commands print: results, and errors and warnings of one line."""

import warnings
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from captum_extract_aggregate.cli import app
from captum_extract_aggregate.cli.output import clear_errors, say_written
from tests.cli.files import PLAN


def test_a_warning_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["explain", "--methods", "normgrad", "--layers", "layer3,layer4"])
    assert done.exit_code == 0
    (line,) = [line for line in done.output.splitlines() if "warn" in line.lower()]
    assert line.startswith("warning: NormGrad at 'layer4' does not depend on the class")


def test_whatever_else_is_raised_is_one_line(invoke, tmp_path, monkeypatch):
    from captum_extract_aggregate import evaluation

    (tmp_path / "plan.toml").write_text(PLAN)
    for error, told in (
        (RuntimeError("CUDA out of memory. Tried\nto allocate"), "memory ran out (RuntimeError: CUDA out of memory."),
        (MemoryError(), "memory ran out (MemoryError"),
        (KeyError("x"), "error: KeyError: 'x'"),
        (AssertionError(), "error: AssertionError"),
        (RecursionError("too deep"), "error: RecursionError: too deep"),
    ):

        def failing(*arguments, error=error):
            raise error

        monkeypatch.setattr(evaluation, "run", failing)
        result = invoke("evaluate", "plan.toml")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert told in result.stderr


def test_text_with_nul_characters_reaches_no_command(capsys):
    with pytest.raises(typer.Exit) as left, clear_errors({"class_names": Path("a\0b"), "n": 3}):
        pytest.fail("it was reached")
    assert left.value.exit_code == 2
    assert "class-names is 'a\\x00b'; expected text without NUL characters" in capsys.readouterr().err


def warning_and_failing():
    warnings.warn("one\n  two", stacklevel=1)
    raise ValueError("three\n  four")


def test_warnings_and_errors_are_a_line_each(capsys):
    with pytest.raises(typer.Exit), clear_errors({"layers": ["a", "b"]}):
        warning_and_failing()
    assert capsys.readouterr().err == "warning: one two\nerror: three four\n"


def warning_again_and_again():
    for text in ("one", "two", "one", "two"):
        with warnings.catch_warnings():  # makes Python forget what it has shown
            pass
        warnings.warn(text, stacklevel=1)


def test_a_command_says_a_warning_once(capsys):
    for _ in range(2):
        with clear_errors({}):
            warning_again_and_again()
        assert capsys.readouterr().err == "warning: one\nwarning: two\n"


def test_a_command_may_end_itself():
    with pytest.raises(typer.Exit) as left, clear_errors({}):
        raise typer.Exit(7)
    assert left.value.exit_code == 7


def test_file_names_that_are_no_text(capsys):
    say_written([Path("a\udcff.png"), Path("b.png")])
    assert capsys.readouterr().out == "written: a\\udcff.png\nwritten: b.png\n"


def test_a_page_of_an_error_is_cut_to_its_beginning_and_its_end(capsys):
    with pytest.raises(typer.Exit), clear_errors({}):
        raise ValueError("target is 'a'; " + "known " * 1000 + "expected an index")
    told = capsys.readouterr().err
    assert told.startswith("error: target is 'a'; known")
    assert told.endswith("known expected an index\n")
    assert len(told) < 920
