"""`captum-extract-aggregate leaderboard`: all methods of a network beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate.cli.options import BatchSize, Device, Methods, Model, Seed, Weights, names_in
from captum_extract_aggregate.cli.output import clear_errors, say, say_written


def leaderboard(
    images: Annotated[Path, typer.Argument(help="A folder with pictures; no annotations are needed.")],
    model: Model,
    weights: Weights = "",
    methods: Methods = "",
    layers: Annotated[
        str, typer.Option(help="Layers to choose from, separated by commas; left out: three default layers.")
    ] = "",
    n: Annotated[int, typer.Option(help="How many pictures are measured; grids take up to 160.")] = 16,
    results: Annotated[Path, typer.Option(help="Folder for numbers and page.")] = Path("leaderboard"),
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Measure every method that a model admits, each at its best layer, on a folder of pictures, beside maps that know
    nothing; run again to go on where it was stopped, or with a larger n to add pictures."""
    from captum_extract_aggregate.evaluation import leaderboard as leaderboard_of

    with clear_errors(locals()):
        board = leaderboard_of(
            model,
            images,
            methods=names_in(methods),
            layers=names_in(layers),
            n=n,
            results=results,
            weights=weights,
            seed=seed,
            batch_size=batch_size,
            device=device,
        )
        say(str(board))
        say_written([results / f"leaderboard.{kind}" for kind in ("html", "txt", "json")])
