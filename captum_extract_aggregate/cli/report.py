"""`captum-extract-aggregate report`: what an evaluation found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate.cli.options import ReportImages, indices_in
from captum_extract_aggregate.cli.output import clear_errors, say_written


def report(
    results: Annotated[Path, typer.Argument(help="A folder that evaluate wrote.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the report; left out: report, inside.")] = None,
    images: ReportImages = "",
) -> None:
    """Tables, curves and a page of maps from the results of an evaluation, complete or not."""
    from captum_extract_aggregate.evaluation import Results
    from captum_extract_aggregate.evaluation.reporting.report import report as write

    with clear_errors(locals()):
        say_written(write(Results(results), output or results / "report", indices_in(images)))
