"""`captum-extract-aggregate reproduce`: tables and figures of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate.cli.options import Annotations, Data, DataModel, DataWeights, Head, Root, names_in
from captum_extract_aggregate.cli.output import clear_errors, say


def reproduce(
    names: Annotated[list[str], typer.Argument(help="Tables and figures such as r20-table3; or all, or list.")],
    data: Data = "scenes",
    root: Root = None,
    model: DataModel = "",
    weights: DataWeights = "",
    head: Head = "",
    layers: Annotated[
        str, typer.Option(help="Layers from input to output, by commas; left out: the default layers.")
    ] = "",
    n: Annotated[int, typer.Option(help="How many images at most; 0: as many as each experiment is meant for.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for results and reports.")] = Path("reproduction"),
    quick: Annotated[bool, typer.Option(help="Few images: whether the main findings still stand, in minutes.")] = False,
    annotations: Annotations = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Take over what a run into the same folder has finished.")
    ] = False,
) -> None:
    """Reproduce tables and figures of the three papers, with a verdict on each statement.

    It holds, does not hold, or cannot be told with so few images (and how many would tell).
    """
    from captum_extract_aggregate.reproduction import Request
    from captum_extract_aggregate.reproduction import reproduce as carry_out

    with clear_errors(locals()):
        text, all_hold = carry_out(
            Request(
                tuple(names),
                data,
                root,
                model,
                weights,
                head,
                names_in(layers),
                n,
                output,
                quick,
                annotations=annotations,
                resume=resume,
            )
        )
    say(text)
    if not all_hold:
        raise typer.Exit(1)
