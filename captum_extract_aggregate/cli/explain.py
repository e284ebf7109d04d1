"""`captum-extract-aggregate explain`: a grid of maps for each picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate.cli.lists import layers_listed, methods_listed
from captum_extract_aggregate.cli.options import (
    DEFAULT_METHODS,
    OUTPUT,
    ClassNames,
    Layers,
    Methods,
    ModelOrUsual,
    Weights,
)
from captum_extract_aggregate.cli.output import clear_errors, say


def explain(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Pictures, or folders with some in or below them; none: an embedded scene of digits."),
    ] = None,
    model: ModelOrUsual = "",
    weights: Weights = "",
    layers: Layers = "",
    methods: Methods = DEFAULT_METHODS,
    target: Annotated[str, typer.Option(help="Class index or name; left out: the class with the highest score.")] = "",
    output: Annotated[
        Path, typer.Option(help="Where the picture goes; of several pictures a folder (explanations).")
    ] = OUTPUT,
    class_names: ClassNames = None,
    size: Annotated[int, typer.Option(help="Side of the model's input in pixels; 0: as the model wants it.")] = 0,
    mean: Annotated[str, typer.Option(help="Channel means subtracted from [0, 1] values; one number or three.")] = "",
    std: Annotated[str, typer.Option(help="Channel deviations that divide them; one number or three.")] = "",
    seed: Annotated[int, typer.Option(help="Which embedded scene.")] = 0,
    single: Annotated[
        bool,
        typer.Option(
            "--single",
            help="One map alone, no frame, of what the model sees of the photograph: the last method and layer.",
        ),
    ] = False,
    colormap: Annotated[str, typer.Option(help="A matplotlib colour map; left out: for any colour vision.")] = "",
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Of the maps, where they are largest.")] = 0.9,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also an interactive page: choose method, layer and one of the highest classes. One file; of several "
            "pictures a folder of them."
        ),
    ] = None,
    list_methods: Annotated[bool, typer.Option("--list-methods", help="List the methods, and end.")] = False,
    list_layers: Annotated[bool, typer.Option("--list-layers", help="List the model's layers, and end.")] = False,
) -> None:
    """Draw a grid of saliency maps, methods by layers, for one class of each picture."""
    from captum_extract_aggregate.cli.maps import MapsRequest, run_all, with_model

    with clear_errors(locals()):
        asked = (model, weights, layers, methods, target, output, class_names, size, mean, std, seed)
        request = MapsRequest(None, *asked, html, single, colormap, opacity)
        if list_methods:
            say(methods_listed())
        if list_layers:
            from captum_extract_aggregate.explanation.subject import find_subject

            request, _ = with_model(request)
            subject = find_subject(request.model, weights, class_names, size)
            say(layers_listed(subject.model, subject.size))
        if not list_methods and not list_layers:
            for told in run_all(request, images or []):
                say(told)
