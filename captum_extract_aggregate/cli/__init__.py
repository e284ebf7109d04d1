"""The command line: `captum-extract-aggregate`, or `python -m captum_extract_aggregate`."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

import captum_extract_aggregate
from captum_extract_aggregate._common.errors import InvalidValueError, is_out_of_memory, said

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
            help="scene-vgg, scene-resnet, scene-vit, a torchvision model's name, or FILE.py:FUNCTION / "
            "MODULE:FUNCTION that returns a model."
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
    html: Annotated[
        Path | None,
        typer.Option(help="Also an interactive page: choose method, layer and one of the highest classes. One file."),
    ] = None,
) -> None:
    """Draw a grid of saliency maps, methods by layers, for one picture and one class."""
    from captum_extract_aggregate.cli.explain import Request, run

    with _clear_errors(locals()):
        _say(
            run(
                Request(
                    image, model, weights, layers, methods, target, output, class_names, size, mean, std, seed, html
                )
            )
        )


@app.command()
def evaluate(
    plan: Annotated[Path, typer.Argument(help="A TOML file: data, model, methods, measures.")],
    results: Annotated[
        Path | None, typer.Option(help="Folder for the results; left out: the plan's name with -results.")
    ] = None,
    images: Annotated[
        str, typer.Option(help="Indices of images whose maps the report shows, separated by commas.")
    ] = "",
) -> None:
    """Evaluate many images x methods x layers x measures; run again (or under torchrun) to continue."""
    from captum_extract_aggregate.evaluation import load_plan, run
    from captum_extract_aggregate.evaluation.reporting.report import report

    with _clear_errors(locals()):
        content, chosen = load_plan(plan), _indices(images)
        folder = results or plan.with_name(f"{plan.stem}-results")
        found = run(content, folder)
        if os.environ.get("RANK", "0") == "0":
            _say_written(report(found, folder / "report", chosen))


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="A folder that evaluate wrote.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the report; left out: report, inside.")] = None,
    images: Annotated[
        str, typer.Option(help="Indices of images whose maps the report shows, separated by commas.")
    ] = "",
) -> None:
    """Tables, curves and a page of maps from the results of an evaluation, complete or not."""
    from captum_extract_aggregate.evaluation import Results
    from captum_extract_aggregate.evaluation.reporting.report import report as write

    with _clear_errors(locals()):
        _say_written(write(Results(results), output or results / "report", _indices(images)))


@app.command()
def reproduce(
    names: Annotated[list[str], typer.Argument(help="Tables and figures such as r20-table3; or all, or list.")],
    data: Annotated[str, typer.Option(help="scenes, voc or imagenet.")] = "scenes",
    root: Annotated[
        Path | None, typer.Option(help="For voc the folder that holds VOCdevkit; for imagenet a list file or a folder.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="For voc and imagenet: a torchvision or timm model, or FILE.py:FUNCTION.")
    ] = "",
    weights: Annotated[str, typer.Option(help="DEFAULT, or a state dict file.")] = "",
    head: Annotated[str, typer.Option(help="A file with a linear head for the data's classes.")] = "",
    layers: Annotated[
        str, typer.Option(help="Layers from input to output, by commas; left out: the default layers.")
    ] = "",
    n: Annotated[int, typer.Option(help="How many images at most; 0: as many as each experiment is meant for.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for results and reports.")] = Path("reproduction"),
    quick: Annotated[bool, typer.Option(help="Few images: whether the main findings still stand, in minutes.")] = False,
) -> None:
    """Reproduce tables and figures of the three papers, with each finding marked: holds, does not hold, or untested."""
    from captum_extract_aggregate.reproduction import Request
    from captum_extract_aggregate.reproduction import reproduce as carry_out

    with _clear_errors(locals()):
        text, all_hold = carry_out(
            Request(tuple(names), data, root, model, weights, head, _names(layers), n, output, quick)
        )
    _say(text)
    if not all_hold:
        raise typer.Exit(1)


@app.command()
def bias_report(
    data: Annotated[str, typer.Option(help="scenes, voc or imagenet.")] = "scenes",
    root: Annotated[
        Path | None, typer.Option(help="For voc the folder that holds VOCdevkit; for imagenet a list file or a folder.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="For voc and imagenet: a torchvision or timm model, or FILE.py:FUNCTION.")
    ] = "",
    weights: Annotated[str, typer.Option(help="DEFAULT, or a state dict file.")] = "",
    head: Annotated[str, typer.Option(help="A file with a linear head for the data's classes.")] = "",
    n: Annotated[int, typer.Option(help="How many images at most.")] = 200,
    robustness: Annotated[bool, typer.Option(help="Also scale and shift the inputs, with biases and without.")] = False,
    output: Annotated[Path | None, typer.Option(help="A folder for one row per image (CSV), and the picture.")] = None,
) -> None:
    """Compare a network with itself without biases: accuracy, decisions, and outputs image by image."""
    from captum_extract_aggregate.reproduction import Request, settings_of
    from captum_extract_aggregate.reproduction.biases import told

    with _clear_errors(locals()):
        if n < 1:
            raise InvalidValueError(f"n is {n}; expected 1 or more")
        for setting in settings_of(Request((), data, root, model, weights, head, n=n)):
            _say(told(setting, n, robustness, output))


@app.command()
def insights(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures; left out: embedded scenes of handwritten digits.")
    ] = None,
    model: Annotated[str, typer.Option(help="As for explain.")] = "scene-resnet",
    weights: Annotated[str, typer.Option(help="As for explain.")] = "",
    class_names: Annotated[
        Path | None, typer.Option(help="A file with one class name per line, in the order of the outputs.")
    ] = None,
    method: Annotated[str, typer.Option(help="The method that is chosen at first.")] = "normgrad",
    port: Annotated[int, typer.Option(help="0: a free one.")] = 0,
) -> None:
    """Open Captum Insights (captum 0.8) with all methods and layers, on this machine alone.

    Pictures have no label: the class that the model gives them stands in its place.
    """
    from captum_extract_aggregate.cli.explain import serve_insights

    with _clear_errors(locals()):
        serve_insights(images or [], model, weights, class_names, method, port)


@contextlib.contextmanager
def _clear_errors(options: Mapping[str, object]) -> Iterator[None]:
    """A user's mistake, or whatever a model or a library raises, as one line, and exit status 2; warnings likewise."""
    try:
        _check_text(options)
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        is_clear = isinstance(error, (ValueError, TypeError, OSError, ImportError)) and str(error)
        told = str(error) if is_clear else said(error)
        if is_out_of_memory(error) and not is_clear:
            told = f"memory ran out ({told}); expected a smaller size, fewer images at a time, or later layers"
        typer.echo("error: " + " ".join(told.split()), err=True)
        raise typer.Exit(2) from None


def _say_warning(message: Warning | str, *about: object, **more: object) -> None:
    typer.echo("warning: " + " ".join(str(message).split()), err=True)


def _check_text(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, (str, Path)) and "\0" in str(part):
                raise InvalidValueError(
                    f"{name.replace('_', '-')} is {str(part)!r}; expected text without NUL characters"
                )


def _say_written(paths: list[Path]) -> None:
    _say("\n".join(f"written: {path}" for path in paths))


def _say(text: str) -> None:
    """Prints text, also of file names that are none."""
    typer.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _indices(text: str) -> list[int]:
    try:
        return [int(part) for part in _names(text)]
    except ValueError:
        raise InvalidValueError(f"images is {text!r}; expected indices separated by commas") from None


if __name__ == "__main__":
    app()
