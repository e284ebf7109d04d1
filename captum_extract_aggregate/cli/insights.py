"""`captum-extract-aggregate insights`: a page of maps as one chooses; Captum's own where Captum has it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.cli.options import SCENE_MODEL, ClassNames, ModelOrUsual, Weights
from captum_extract_aggregate.cli.output import clear_errors


def insights(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures; left out: embedded scenes of handwritten digits.")
    ] = None,
    model: ModelOrUsual = "",
    weights: Weights = "",
    class_names: ClassNames = None,
    method: Annotated[str, typer.Option(help="The method that is chosen at first.")] = "linear-approximation",
    port: Annotated[int, typer.Option(help="0: a free one.")] = 0,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--captums",
            help="The live page of this package, or Captum Insights (captum 0.8); left out: Captum's where it is.",
        ),
    ] = None,
) -> None:
    """Open a page on this machine alone: choose picture, model, method, layer and class.

    On captum 0.8 it is Captum Insights, in which pictures without a label stand under the class that the model gives
    them; on later ones, or with --live, the live page.
    """
    with clear_errors(locals()):
        if live or (live is None and importlib.util.find_spec("captum.insights") is None):
            _serve_live(images or [], model, weights, class_names, method, port)
        else:
            _serve(images or [], model or SCENE_MODEL, weights, class_names, method, port)


def _serve_live(
    images: Sequence[Path], model: str, weights: str, class_names: Path | None, method: str, port: int
) -> None:
    from captum_extract_aggregate.live import serve

    if not model and (weights or class_names is not None):
        raise InvalidValueError("weights and class-names are for a model of yours; expected --model beside them")
    serve(model or None, images, weights=weights, class_names=class_names, method=method, port=port)


def _serve(images: Sequence[Path], model: str, weights: str, class_names: Path | None, method: str, port: int) -> None:
    """Serves Captum Insights on pictures, or on embedded scenes; returns when its server ends."""
    from captum_extract_aggregate.data.image_files import load_image
    from captum_extract_aggregate.data.models_by_name import takes_scenes
    from captum_extract_aggregate.data.scenes import DigitScenes
    from captum_extract_aggregate.explanation.subject import (
        check_names,
        class_name,
        find_subject,
        preprocess,
        scores_of,
    )
    from captum_extract_aggregate.insights import serve

    if not images and not takes_scenes(model):
        raise InvalidValueError(f"model is {model!r}, but there is no picture to explain; expected IMAGES")
    subject = find_subject(model, weights, class_names)
    scenes = DigitScenes(n=12)
    pictures = [preprocess(load_image(path), subject)[0] for path in images]
    first = pictures[0] if images else scenes[0][0]
    count = scores_of(subject.model, first[None]).shape[1]
    check_names(class_names, subject.classes, count)
    classes = [class_name(subject.classes, i) for i in range(count)]
    serve(subject.model, classes, pictures or scenes, subject.mean, subject.std, method, port or None, blocking=True)
