"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.attr.by_name import METHODS
from captum_extract_aggregate.cli.lists import complete_layers, complete_methods, complete_model
from captum_extract_aggregate.registry import list_models

SCENE_MODEL = "scene-resnet"
OUTPUT = Path("explanation.png")
DEFAULT_METHODS = "gradcam,normgrad,linear-approximation"


def _listed(names: Iterable[str]) -> str:
    """Returns names between commas, in lines that break none of them at its hyphen (the mark keeps the lines as they
    are)."""
    return "\b\n" + textwrap.fill(", ".join(names), 52, break_on_hyphens=False)


_SINGLE = _listed(name for name, method in METHODS.items() if not method.joins_layers)
_JOINED = _listed(name for name, method in METHODS.items() if method.joins_layers)

_MODELS = (
    f"{', '.join(list_models())}, a torchvision model's name, a folder of Hugging Face's, or FILE.py:FUNCTION / "
    "MODULE:FUNCTION that returns a model."
)
_USUAL = (
    " Left out: for scenes scene-resnet, for photographs a network of torchvision's whose weights are on this machine."
)
Model = Annotated[str, typer.Option(help=_MODELS, autocompletion=complete_model)]
ModelOrUsual = Annotated[str, typer.Option(help=_MODELS + _USUAL, autocompletion=complete_model)]
Weights = Annotated[
    str,
    typer.Option(
        help="For torchvision models: DEFAULT (or another name torchvision knows), a state dict file (.pth, .pt, "
        ".safetensors), or 'random'."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Pictures at a time.")]
Seed = Annotated[int, typer.Option(help="Of whatever is drawn.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
ClassNames = Annotated[
    Path | None,
    typer.Option(help="A file with one class name per line, in the order of the outputs; or imagenet."),
]
Methods = Annotated[
    str,
    typer.Option(
        help=f"Methods, separated by commas, of single layers:\n\n{_SINGLE}\n\nof all layers together:\n\n{_JOINED}\n\n"
        "or a class's name (GradCAM, or Captum's LayerGradCam), any EXTRACT:AGGREGATE such as conv3x3:filter_norm, or "
        "a class of your own, FILE.py:CLASS.",
        autocompletion=complete_methods,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        help="Layer names, separated by commas; left out: the default layers.", autocompletion=complete_layers
    ),
]
ReportImages = Annotated[str, typer.Option(help="Indices of images whose maps the report shows, separated by commas.")]

# Which data and which model the papers' experiments take
Annotations = Annotated[str, typer.Option(help="For coco: its file of instances.")]
Data = Annotated[str, typer.Option(help="scenes, voc, coco or imagenet.")]
Root = Annotated[
    Path | None, typer.Option(help="For voc the folder that holds VOCdevkit; for imagenet a list file or a folder.")
]
DataModel = Annotated[str, typer.Option(help="For voc and imagenet: a torchvision or timm model, or FILE.py:FUNCTION.")]
DataWeights = Annotated[str, typer.Option(help="DEFAULT, or a state dict file.")]
Head = Annotated[str, typer.Option(help="A file with a linear head for the data's classes.")]


def names_in(text: str) -> tuple[str, ...]:
    """Returns the parts of a text between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def indices_in(text: str) -> list[int]:
    """Returns the numbers of images between commas."""
    try:
        return [int(part) for part in names_in(text)]
    except ValueError:
        raise InvalidValueError(f"images is {text!r}; expected indices separated by commas") from None
