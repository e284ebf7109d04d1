"""The command line: `captum-extract-aggregate`, or `python -m captum_extract_aggregate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import captum_extract_aggregate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Saliency maps for image models: NormGrad, selective NormGrad, linear approximation and their relatives.",
)


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


@app.command()
def explain(
    image: Annotated[
        Path | None, typer.Argument(help="A picture; left out: an embedded scene of handwritten digits.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="scene-vgg, scene-resnet, a torchvision model's name, or FILE.py:FUNCTION / MODULE:FUNCTION that "
            "returns a model."
        ),
    ] = "scene-resnet",
    weights: Annotated[
        str,
        typer.Option(
            help="For torchvision models: DEFAULT (or another name torchvision knows), a state dict file (.pth, .pt, "
            ".safetensors), or 'random'."
        ),
    ] = "",
    layers: Annotated[str, typer.Option(help="Layer names, separated by commas; left out: the default layers.")] = "",
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, separated by commas: normgrad, selective-normgrad, linear-approximation, gradient, gradcam, "
            "gradcam-pos, gradcam++, gradmid, activity, guided, deconvolution, rectgrad, rectgrad-mod, lrp, lrp-gamma, "
            "excitation, contrastive-excitation; of all layers together cumulative-gradcam, cumulative-gradmid, "
            "aggregated-activity, fullgrad, normgrad-combined; or any EXTRACT:AGGREGATE such as conv3x3:filter_norm."
        ),
    ] = "normgrad,selective-normgrad,linear-approximation,gradient",
    target: Annotated[str, typer.Option(help="Class index or name; left out: the class with the highest score.")] = "",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("explanation.png"),
    class_names: Annotated[
        Path | None, typer.Option(help="A file with one class name per line, in the order of the outputs.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the model's input in pixels; 0: as the model wants it.")] = 0,
    mean: Annotated[str, typer.Option(help="Channel means subtracted from [0, 1] values; one number or three.")] = "",
    std: Annotated[str, typer.Option(help="Channel deviations that divide them; one number or three.")] = "",
    seed: Annotated[int, typer.Option(help="Which embedded scene.")] = 0,
) -> None:
    """Draw a grid of saliency maps, methods by layers, for one picture and one class."""
    from captum_extract_aggregate.explain import Request, run

    try:
        report = run(
            Request(image, model, weights, layers, methods, target, output, class_names, size, mean, std, seed)
        )
    except (ValueError, TypeError, OSError) as error:
        typer.echo("error: " + " ".join(str(error).split()), err=True)
        raise typer.Exit(2) from None
    typer.echo(report)


if __name__ == "__main__":
    app()
