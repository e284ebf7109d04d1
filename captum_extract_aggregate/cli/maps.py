"""Pictures, one model, one class: the command line's options, as the one call in Python takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from captum_extract_aggregate._common.errors import InvalidValueError, make_folder
from captum_extract_aggregate.cli.options import DEFAULT_METHODS, OUTPUT, SCENE_MODEL
from captum_extract_aggregate.data.image_files import load_image, pictures_below, refuse_virtual
from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.data.weights_here import weights_here
from captum_extract_aggregate.explanation.explain import explain, explained
from captum_extract_aggregate.explanation.explanation import Explanation, check_file
from captum_extract_aggregate.explanation.subject import find_subject
from captum_extract_aggregate.visualization.blending import OPACITY

_FOLDER = Path("explanations")


@dataclass(frozen=True)
class MapsRequest:
    """Holds what the command line was asked for, as text."""

    image: Path | None = None
    model: str = ""
    weights: str = ""
    layers: str = ""
    methods: str = DEFAULT_METHODS
    target: str = ""
    output: Path = OUTPUT
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
    request, note = with_model(request)
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
    return f"{note}{found.summary()}\n{_saved(found, request)}"


def run_all(request: MapsRequest, images: Sequence[Path]) -> Iterator[str]:
    """Makes a picture for each of several, or of those in a folder, and yields what to tell of each; what cannot be
    read among them is told, and left out."""
    if not images or (len(images) == 1 and not images[0].is_dir()):
        yield run(replace(request, image=images[0] if images else None))
        return
    folder = _FOLDER if request.output == OUTPUT else request.output
    pictures = pictures_in(images, folder)
    for what, given in (("output", folder), ("html", request.html)):
        if given is not None and given.suffix and not given.is_dir():
            raise InvalidValueError(f"{what} is {str(given)!r}, but there are several pictures; expected a folder")
        if given is not None and given.is_file():
            raise InvalidValueError(f"{what} is {str(given)!r}, which is a file; expected a folder")
    request, note = with_model(replace(request, image=pictures[0]))
    said_of_it = (request.weights, request.class_names, request.size, request.mean, request.std)
    subject = find_subject(request.model, *said_of_it)
    yield f"{note}{len(pictures)} pictures, explained by {request.model}"
    failed = 0
    for picture, name in zip(pictures, _names(pictures)):
        html = None if request.html is None else request.html / f"{name}.html"
        own = replace(request, image=picture, output=folder / f"{name}.png", html=html)
        try:
            yield _one(own, subject)
        except ValueError as error:
            failed += 1
            if failed == len(pictures):
                raise
            yield f"{picture}: left out: {' '.join(str(error).split())}"
    if failed:
        yield f"{failed} of {len(pictures)} pictures left out"


def pictures_in(images: Sequence[Path], but: Path) -> list[Path]:
    """Returns the files that are named, and the pictures below folders that are, but for the maps that are written."""
    found: list[Path] = []
    for path in images:
        refuse_virtual(path)
        if not path.is_dir():
            found.append(path)
            continue
        found += pictures_below(path, but)
    return found


def with_model(request: MapsRequest) -> tuple[MapsRequest, str]:
    """Returns a request with its model, and what to tell of one that nobody named: scenes have one, photographs a
    network whose weights are on this machine."""
    if request.model:
        return request, ""
    if request.image is None:
        return replace(request, model=SCENE_MODEL), ""
    load_image(request.image)  # its mistakes come first
    if not request.weights:
        for name, weights in weights_here().items():
            return replace(request, model=name, weights=weights), f"model: {name}, whose weights are on this machine\n"
    raise InvalidValueError(
        f"there is no model for {str(request.image)!r}; expected --model: a torchvision model (--model resnet50 "
        "--weights DEFAULT downloads it once), timm:NAME, a folder of Hugging Face's, or your own: FILE.py:FUNCTION"
    )


def _one(request: MapsRequest, subject: NamedModel) -> str:
    more = {"methods": request.methods, "layers": request.layers, "class_names": request.class_names}
    found = explained(subject, request.model, request.image, request.target, **more)  # type: ignore[arg-type]
    make_folder("output", request.output.parent)  # once there is something to lay into it
    if request.html is not None:
        make_folder("html", request.html.parent)
    written = _saved(found, request).replace("\n", "; ")
    return f"{request.image}: {found.name_of(found.target)}, score {found.scores[found.target]:.2f}; {written}"


def _saved(found: Explanation, request: MapsRequest) -> str:
    found.save(request.output, single=request.single, alpha=request.opacity, cmap=request.colormap or None)
    told = f"maps written to {request.output}"
    return told if request.html is None else f"{told}\npage written to {found.save(request.html)}"


def _names(pictures: Sequence[Path]) -> list[str]:
    """Returns a file's name for each, none of them twice."""
    names: list[str] = []
    for picture in pictures:
        taken = {name.casefold() for name in names}
        free = (picture.stem if i == 1 else f"{picture.stem}-{i}" for i in range(1, len(pictures) + 1))
        names.append(next(name for name in free if name.casefold() not in taken))
    return names
