"""What the documentation shows beside its code cells, which its build executes: commands and plans."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate import attr, bias_study, data, evaluation, metrics, registry
from captum_extract_aggregate.attr.by_name import METHODS
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.evaluation import load_plan

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
REFERENCE = "\n".join(text for name, text in PAGES.items() if name.startswith("api/"))


def test_every_option_in_a_command_exists():
    found = set()
    for name, text in PAGES.items():
        for command, rest in re.findall(r"captum(?:-extract-|_extract_)aggregate ([a-z-]+)((?: [^\s`]+)*)", text):
            for option in re.findall(r"--[a-z-]+", rest):
                found.add((command, option, name))
    assert {"explain", "bias-report"} <= {command for command, _, _ in found}
    for command, option, name in found:
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, f"{name}: no command {command}"
        assert option in shown.output, f"{name}: {command} {option}"


def test_the_plans_are_plans(tmp_path):
    plans = [plan for text in PAGES.values() for plan in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    assert plans
    for plan in plans:
        (tmp_path / "plan.toml").write_text(plan)
        assert load_plan(tmp_path / "plan.toml").methods


@pytest.mark.parametrize("name", [name for name in PAGES if "reproduction" not in name and "peers_" not in name])
def test_every_python_example_is_executed(name):
    assert "```python" not in PAGES[name]


def test_every_public_name_is_in_the_reference():
    listed = re.findall(r"auto(?:class|function):: captum_extract_aggregate\.(\S+)", REFERENCE)
    listed += re.findall(r"automodule:: captum_extract_aggregate\.(\S+)", REFERENCE)
    assert len(set(listed)) == len(listed), "a name stands there twice"
    whole = {name for module in (data, bias_study) for name in module.__all__}  # `automodule`
    for module in (metrics, evaluation):
        room = module.__name__.split(".")[-1]
        assert {f"{room}.{name}" for name in module.__all__ if callable(getattr(module, name))} <= set(listed)
    for name in {*cea.__all__, *attr.__all__}:
        assert name in {*listed, *whole}, name
    for name in registry.__all__:
        assert {name, f"registry.{name}", f"evaluation.{name}"} & {*listed, *whole}, name


def test_every_registered_class_is_in_the_reference():
    classes = {method.make.__name__ for _, method in METHODS.items() if isinstance(method.make, type)}
    assert {"NormGrad", "LRP"} <= classes
    for name in classes:
        assert f"autoclass:: captum_extract_aggregate.{name}\n" in REFERENCE, name
