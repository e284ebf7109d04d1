"""The command line: `captum-extract-aggregate`, or `python -m captum_extract_aggregate`.

One file a command; `options` are shared.
"""

from __future__ import annotations

from typing import Annotated

import typer

import captum_extract_aggregate
from captum_extract_aggregate.cli.bias_report import bias_report
from captum_extract_aggregate.cli.choose import choose
from captum_extract_aggregate.cli.evaluate import evaluate
from captum_extract_aggregate.cli.explain import explain
from captum_extract_aggregate.cli.insights import insights
from captum_extract_aggregate.cli.leaderboard import leaderboard
from captum_extract_aggregate.cli.report import report
from captum_extract_aggregate.cli.reproduce import reproduce

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Saliency maps for image models: NormGrad, selective NormGrad, linear approximation and their relatives.",
)
for command in (explain, choose, leaderboard, evaluate, report, reproduce, bias_report, insights):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(captum_extract_aggregate.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


if __name__ == "__main__":
    app()
