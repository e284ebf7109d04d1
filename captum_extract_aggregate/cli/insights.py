"""`captum-extract-aggregate insights`: Captum Insights with all methods and layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.cli.options import ClassNames, Model, Weights
from captum_extract_aggregate.cli.output import clear_errors


def insights(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures; left out: embedded scenes of handwritten digits.")
    ] = None,
    model: Model = "scene-resnet",
    weights: Weights = "",
    class_names: ClassNames = None,
    method: Annotated[str, typer.Option(help="The method that is chosen at first.")] = "normgrad",
    port: Annotated[int, typer.Option(help="0: a free one.")] = 0,
) -> None:
    """Open Captum Insights (captum 0.8) with all methods and layers, on this machine alone.

    Pictures have no label: the class that the model gives them stands in its place.
    """
    with clear_errors(locals()):
        _serve(images or [], model, weights, class_names, method, port)


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
