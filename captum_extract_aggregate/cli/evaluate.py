"""`captum-extract-aggregate evaluate`: a plan carried out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate.cli.options import ReportImages, indices_in
from captum_extract_aggregate.cli.output import clear_errors, say_written


def evaluate(
    plan: Annotated[Path, typer.Argument(help="A TOML file: data, model, methods, measures.")],
    results: Annotated[
        Path | None, typer.Option(help="Folder for the results; left out: the plan's name with -results.")
    ] = None,
    images: ReportImages = "",
) -> None:
    """Evaluate many images x methods x layers x measures; run again (or under torchrun) to continue."""
    from captum_extract_aggregate.evaluation import load_plan, run
    from captum_extract_aggregate.evaluation.reporting.report import report

    with clear_errors(locals()):
        content, chosen = load_plan(plan), indices_in(images)
        folder = results or plan.with_name(f"{plan.stem}-results")
        found = run(content, folder)
        if os.environ.get("RANK", "0") == "0":
            say_written(report(found, folder / "report", chosen))
