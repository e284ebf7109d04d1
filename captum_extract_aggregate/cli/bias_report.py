"""`captum-extract-aggregate bias-report`: a network with biases and without."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.cli.options import Annotations, Data, DataModel, DataWeights, Head, Root
from captum_extract_aggregate.cli.output import clear_errors, say


def bias_report(
    data: Data = "scenes",
    root: Root = None,
    model: DataModel = "",
    weights: DataWeights = "",
    head: Head = "",
    n: Annotated[int, typer.Option(help="How many images at most.")] = 200,
    robustness: Annotated[bool, typer.Option(help="Also scale and shift the inputs, with biases and without.")] = False,
    output: Annotated[Path | None, typer.Option(help="A folder for one row per image (CSV), and the picture.")] = None,
    annotations: Annotations = "",
) -> None:
    """Compare a network with itself without biases: accuracy, decisions, and outputs image by image."""
    from captum_extract_aggregate.reproduction import Request, settings_of
    from captum_extract_aggregate.reproduction.biases import told

    with clear_errors(locals()):
        if n < 1:
            raise InvalidValueError(f"n is {n}; expected 1 or more")
        request = Request((), data, root, model, weights, head, n=n, annotations=annotations)
        for setting in settings_of(request):
            say(told(setting, n, robustness, output))
