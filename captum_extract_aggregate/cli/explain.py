"""`captum-extract-aggregate explain`: a grid of maps for one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate.cli.options import DEFAULT_METHODS, ClassNames, Methods, Model, Weights
from captum_extract_aggregate.cli.output import clear_errors, say


def explain(
    image: Annotated[
        Path | None, typer.Argument(help="A picture; left out: an embedded scene of handwritten digits.")
    ] = None,
    model: Model = "scene-resnet",
    weights: Weights = "",
    layers: Annotated[str, typer.Option(help="Layer names, separated by commas; left out: the default layers.")] = "",
    methods: Methods = DEFAULT_METHODS,
    target: Annotated[str, typer.Option(help="Class index or name; left out: the class with the highest score.")] = "",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("explanation.png"),
    class_names: ClassNames = None,
    size: Annotated[int, typer.Option(help="Side of the model's input in pixels; 0: as the model wants it.")] = 0,
    mean: Annotated[str, typer.Option(help="Channel means subtracted from [0, 1] values; one number or three.")] = "",
    std: Annotated[str, typer.Option(help="Channel deviations that divide them; one number or three.")] = "",
    seed: Annotated[int, typer.Option(help="Which embedded scene.")] = 0,
    single: Annotated[
        bool,
        typer.Option(
            "--single", help="One map alone, no frame, in the photograph's pixels: the last method and layer."
        ),
    ] = False,
    colormap: Annotated[str, typer.Option(help="A matplotlib colour map; left out: for any colour vision.")] = "",
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Of the maps, where they are largest.")] = 0.9,
    html: Annotated[
        Path | None,
        typer.Option(help="Also an interactive page: choose method, layer and one of the highest classes. One file."),
    ] = None,
) -> None:
    """Draw a grid of saliency maps, methods by layers, for one picture and one class."""
    from captum_extract_aggregate.cli.maps import MapsRequest, run

    with clear_errors(locals()):
        say(
            run(
                MapsRequest(
                    image,
                    model,
                    weights,
                    layers,
                    methods,
                    target,
                    output,
                    class_names,
                    size,
                    mean,
                    std,
                    seed,
                    html,
                    single,
                    colormap,
                    opacity,
                )
            )
        )
