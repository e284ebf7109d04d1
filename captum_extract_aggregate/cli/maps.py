"""One picture, one model, one class: the command line's options, as the one call in Python takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.cli.options import DEFAULT_METHODS
from captum_extract_aggregate.explanation.explain import explain
from captum_extract_aggregate.explanation.explanation import check_file
from captum_extract_aggregate.visualization.blending import OPACITY


@dataclass(frozen=True)
class MapsRequest:
    """Holds what the command line was asked for, as text."""

    image: Path | None = None
    model: str = "scene-resnet"
    weights: str = ""
    layers: str = ""
    methods: str = DEFAULT_METHODS
    target: str = ""
    output: Path = Path("explanation.png")
    class_names: Path | None = None
    size: int = 0
    mean: str = ""
    std: str = ""
    seed: int = 0
    html: Path | None = None
    single: bool = False
    colormap: str = ""
    opacity: float = OPACITY


def run(request: MapsRequest) -> str:
    """Makes the picture and returns what to tell the user. Raises ValueError or TypeError with one clear line."""
    check_file(request.output, "output", pages=False)
    if request.html is not None and request.html.suffix.lower() not in (".html", ".htm"):
        raise InvalidValueError(f"html is {str(request.html)!r}; expected a .html file")
    if request.html is not None:
        check_file(request.html, "html")
    found = explain(
        request.model,
        request.image,
        request.target,
        methods=request.methods,
        layers=request.layers,
        weights=request.weights,
        class_names=request.class_names,
        size=request.size,
        mean=request.mean,
        std=request.std,
        seed=request.seed,
    )
    found.save(request.output, single=request.single, alpha=request.opacity, cmap=request.colormap or None)
    told = f"{found.summary()}\nmaps written to {request.output}"
    return told if request.html is None else f"{told}\npage written to {found.save(request.html)}"
