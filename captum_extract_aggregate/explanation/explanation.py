"""What `explain` found: maps by class, method and layer, to be shown, saved and questioned."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from captum.attr import Attribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate.explanation.maps import maps_of
from captum_extract_aggregate.explanation.subject import Class, class_index, class_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from captum_extract_aggregate.explanation.trust import Trust
    from captum_extract_aggregate.visualization.rows import Rows

_PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")
_MOST_CLASSES = 5
_LARGEST = 640  # pixels of a picture's longer side in a grid or a page
# Zlib's usual compression takes as long as drawing the figure, for a tenth less.
_HOW: dict[str, dict[str, Any]] = {".png": {"pil_kwargs": {"compress_level": 3}}}


@dataclass(eq=False)
class Explanation:
    """Holds the maps of one picture; a notebook shows it.

    Attributes:
        target: the class that is explained.
        scores: the model's class scores, one dimension.
        classes: what classes are called, as far as it is known.
        picture: `3 x H x W` in [0, 1]: what the model sees of the photograph, in the photograph's own pixels.
        x: the model's input.
        model, model_name: the model, and what it is called.
        layers: the names of the layers.
        methods: the attribution objects by name.
        boxes: `D x 4` rectangles to draw on the picture; None for none.
    """

    model: nn.Module
    model_name: str
    x: Tensor
    picture: Tensor
    scores: Tensor
    target: int
    classes: list[str]
    layers: list[str]
    methods: dict[str, Attribution]
    boxes: Tensor | None = None
    _known: dict[int, Rows] = field(default_factory=dict, repr=False)

    @property
    def maps(self) -> Rows:
        """Maps of the class `target` by method and layer, each `1 x h x w`; `maps_of` gives those of other classes."""
        return self.maps_of(self.target)

    @property
    def title(self) -> str:
        """Which class of which model is explained, and its score."""
        return self._title_of(self.target)

    def name_of(self, index: int) -> str:
        """Returns what a class is called."""
        return class_name(self.classes, index)

    def maps_of(self, target: Class) -> Rows:
        """Returns the maps by method and layer of a class, given by its name or index."""
        index = class_index(target, self.classes, self.scores)
        self._explain([index])
        return self._known[index]

    def figure(self, target: Class | None = None, **options: Any) -> Figure:
        """Returns the picture of all maps of a class; options as for `visualization.grid` (`scaling`, `cmap`, ...)."""
        from captum_extract_aggregate.visualization.figures import grid

        index = self.target if target is None else class_index(target, self.classes, self.scores)
        picture, boxes = at_most(self.picture, _LARGEST), self.boxes
        if boxes is not None:
            boxes = boxes * (picture.shape[2] / self.picture.shape[2])
        options = {"missing": "not meant for this layer"} | options
        return grid(picture, self.maps_of(index), self._title_of(index), boxes, **options)

    def show(self, **options: Any) -> None:
        """Opens the picture: in a notebook below the cell, else in a window or the system's viewer."""
        figure = self.figure(**options)
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            get_ipython = display = None  # type: ignore[assignment]
        if get_ipython is not None and get_ipython() is not None:
            display(figure)  # type: ignore[no-untyped-call]
            return
        from PIL import Image

        file = io.BytesIO()
        figure.savefig(file, dpi=150)
        Image.open(file).show()

    def save(self, path: str | Path, *, single: bool = False, dpi: int = 150, **options: Any) -> Path:
        """Writes a picture (.png, .pdf, .svg, .jpg, .webp), or a page to explore (.html), and returns its path.

        Args:
            path: where it goes; the suffix says what is written.
            single: one map over the picture alone, no frame, in the picture's own pixels: the last method's at its last
                layer, or those given as `method=` and `layer=`.
            dpi: of the grid of maps.
            options: as for `figure`; of a single map `method`, `layer`, `alpha` and `cmap`.
        """
        path = check_file(Path(path))
        try:
            if path.suffix.lower() in (".html", ".htm"):
                self._write_page(path)
            elif single:
                self._write_single(path, **options)
            else:
                self.figure(**options).savefig(path, dpi=dpi, **_HOW.get(path.suffix.lower(), {}))
        except OSError as error:
            raise InvalidValueError(
                f"path is {str(path)!r}, which cannot be written: {error.strerror or error}"
            ) from None
        return path

    def trust(self, seed: int = 0) -> Trust:
        """Returns what three questions say of each map, beside what a random map would get; `print` shows it.

        Does it depend on the class, on what was learned, and does the decision depend on what it marks? See
        `captum_extract_aggregate.explanation.trust.Trust`.
        """
        from captum_extract_aggregate.explanation.trust import trust

        return trust(self, seed)

    def summary(self) -> str:
        """Returns the highest scores, the class that is explained, and the layers."""
        top = self.scores.topk(min(_MOST_CLASSES, len(self.scores)))
        lines = ["class scores (logits), highest first:"]
        lines += [f"  {score:8.2f}  {self.name_of(i)}" for score, i in zip(top.values.tolist(), top.indices.tolist())]
        lines.append(f"explained: class {self.name_of(self.target)}, score {self.scores[self.target]:.2f}")
        lines.append(f"layers: {', '.join(self.layers)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Explanation of {self.title}: {', '.join(self.maps)} at {', '.join(self.layers)}>"

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.figure().savefig(file, dpi=80)
        return file.getvalue()

    def _repr_html_(self) -> str:
        """Returns the page to explore, in a frame of its own."""
        return (
            f'<iframe title="{html.escape(self.title, quote=True)}" style="width: 100%; height: 40em; border: 0" '
            f'sandbox="allow-scripts" srcdoc="{html.escape(self._page(), quote=True)}"></iframe>'
        )

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _title_of(self, index: int) -> str:
        return f"{self.model_name}: class {self.name_of(index)}, score {self.scores[index]:.2f}"

    def _explain(self, targets: Sequence[int]) -> None:
        """Makes the maps that are not there yet, those of all classes from one forward."""
        missing = [target for target in dict.fromkeys(targets) if target not in self._known]
        if missing:
            self._known.update(zip(missing, maps_of(self.methods, self.x, missing)))

    def _shown_classes(self) -> list[int]:
        top = self.scores.topk(min(_MOST_CLASSES, len(self.scores))).indices.tolist()
        return [self.target, *(i for i in top if i != self.target)]

    def _page(self) -> str:
        from captum_extract_aggregate.visualization.explain_page import page

        shown = self._shown_classes()
        self._explain(shown)
        names = [self.name_of(i) for i in shown]
        title = f"Saliency maps of {self.model_name}"
        picture = at_most(self.picture, _LARGEST)
        return page(title, picture, [self._known[i] for i in shown], names, self.scores[shown].tolist())

    def _write_page(self, path: Path) -> None:
        path.write_text(self._page(), encoding="utf-8")

    def _write_single(
        self, path: Path, method: str = "", layer: str = "", alpha: float | None = None, cmap: Any = None
    ) -> None:
        from PIL import Image

        from captum_extract_aggregate.visualization.figures import overlaid

        if path.suffix.lower() in (".svg", ".pdf"):
            raise InvalidValueError(f"path is {str(path)!r}; expected a .png, .jpg or .webp file for a single map")
        map_ = _chosen(self.maps, method, layer)
        Image.fromarray(overlaid(self.picture, map_, None, alpha, cmap)).save(path)


def at_most(picture: Tensor, side: int) -> Tensor:
    """Returns a picture whose longer side has at most so many pixels."""
    height, width = picture.shape[1:]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _chosen(maps: Mapping[str, Mapping[str, Tensor]], method: str, layer: str) -> Tensor:
    """Returns one map: of the last method at its last layer, or those given."""
    method = method or list(maps)[-1]
    if method not in maps:
        raise InvalidValueError(unknown_name("method", method, maps))
    layer = layer or list(maps[method])[-1]
    if layer not in maps[method]:
        raise InvalidValueError(unknown_name("layer", layer, maps[method]))
    return maps[method][layer]


def check_file(path: Path, what: str = "path", pages: bool = True) -> Path:
    """Returns the path of a file that can be written; our error for another."""
    known = (*_PICTURES, ".html", ".htm") if pages else _PICTURES
    if path.suffix.lower() not in known:
        raise InvalidValueError(
            f"{what} is {str(path)!r}; expected a .png, .pdf, .svg, .jpg or .webp file" + ", or .html" * pages
        )
    if not path.absolute().parent.is_dir():
        raise InvalidValueError(f"{what} is {str(path)!r}, but the folder {path.parent} does not exist")
    if path.is_dir():
        raise InvalidValueError(f"{what} is {str(path)!r}, which is a folder; expected a file's name")
    return path
