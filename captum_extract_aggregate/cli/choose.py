"""`captum-extract-aggregate choose`: which maps of a network can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate.cli.options import BatchSize, Device, Methods, Model, Seed, Weights, names_in
from captum_extract_aggregate.cli.output import clear_errors, say, say_written

_METHODS = "gradcam,normgrad,selective-normgrad,linear-approximation"


def choose(
    images: Annotated[Path, typer.Argument(help="A folder with pictures in or below it; no annotations are needed.")],
    model: Model,
    weights: Weights = "",
    methods: Methods = _METHODS,
    layers: Annotated[str, typer.Option(help="Layer names, separated by commas; left out: three default layers.")] = "",
    n: Annotated[int, typer.Option(help="How many pictures, evenly spread over the folder.")] = 32,
    results: Annotated[Path, typer.Option(help="Folder for numbers, table and picture.")] = Path("choice"),
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Choose the method and layer whose maps can be trusted, for a model and a folder of pictures; run again to go on
    where it was stopped."""
    from captum_extract_aggregate.evaluation import choose as choose_of

    with clear_errors(locals()):
        chosen = choose_of(
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
        say(str(chosen))
        say_written([results / f"choice.{kind}" for kind in ("txt", "csv", "png")])
