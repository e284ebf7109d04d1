"""The visualizer behind `insights.serve`: Captum's, with our pictures, and without its ways to hang."""

from __future__ import annotations

import base64
import io
import itertools
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from captum.insights import AttributionVisualizer, Batch
from captum.insights.attr_vis.app import FilterConfig
from captum.insights.attr_vis.config import ATTRIBUTION_METHOD_CONFIG
from captum.insights.attr_vis.features import FeatureOutput, ImageFeature
from torch import Tensor, nn

from captum_extract_aggregate.notebook_figure import NotebookFigure
from captum_extract_aggregate.visualization import overlay


class Trouble:
    """What the last attribution failed with, if it did."""

    def __init__(self) -> None:
        self.text = ""


class MapFeature(ImageFeature):
    """The image, and the map drawn over it in colours for any colour vision; or why there is none."""

    def __init__(self, to_picture: Callable[[Tensor], Tensor], trouble: Trouble) -> None:
        super().__init__("image", None, None, None)
        self.to_picture, self.trouble = to_picture, trouble

    def visualize(self, attribution: Tensor, data: Tensor, contribution_frac: float) -> FeatureOutput:
        picture = self.to_picture(data[0])

        def image(axes: Any) -> None:
            axes.imshow(picture.permute(1, 2, 0).cpu().numpy())

        def map_(axes: Any) -> None:
            if self.trouble.text:
                axes.text(0.5, 0.5, textwrap.fill(self.trouble.text, 34), ha="center", va="center", fontsize=10)
            else:
                overlay(axes, picture, attribution[0])

        return FeatureOutput(self.name, _drawn(image), _drawn(map_), self.visualization_type(), contribution_frac)


class Visualizer(AttributionVisualizer):
    """Answers one request at a time, looks at each image once, and draws errors in the map's place.

    What was fetched last is what a click on a class goes to: it is one page's server, as Captum's.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        batches: Sequence[Batch],
        to_picture: Callable[[Tensor], Tensor],
        method: str,
    ) -> None:
        trouble = Trouble()
        super().__init__([model], list(classes), [MapFeature(to_picture, trouble)], _Endless(batches))
        self._count, self._lock = len(batches), threading.Lock()  # a model is explained by one thread at a time
        self._asked = threading.local()  # a request's settings, until its turn comes
        calculate = self.attribution_calculation.calculate_attribution

        def checked(baselines: Any, data: Any, *rest: Any) -> tuple[Tensor, ...]:
            trouble.text = ""
            try:
                return calculate(baselines, data, *rest)
            except Exception as error:  # the page would wait for ever
                trouble.text = str(error) or repr(error)
                return tuple(torch.ones_like(x) for x in data)

        self.attribution_calculation.calculate_attribution = checked  # type: ignore[method-assign]
        arguments = {name: config.value for name, config in ATTRIBUTION_METHOD_CONFIG[method].params.items()}
        self._config = FilterConfig(attribution_method=method, attribution_arguments=arguments)

    def _update_config(self, settings: Any) -> None:
        self._asked.settings = settings

    def visualize(self) -> list[Any]:
        """At most four images that fit the page's filters; fewer where there are no more."""
        with self._lock:
            if getattr(self._asked, "settings", None) is not None:
                super()._update_config(self._asked.settings)
            self._outputs: list[Any] = []
            for _ in range(self._count):
                self._outputs.extend(self._get_outputs())
                if len(self._outputs) >= self._config.num_examples:
                    break
            return [output for output, _ in self._outputs]

    def _calculate_attribution_from_cache(self, *args: Any) -> Any:
        with self._lock:
            return super()._calculate_attribution_from_cache(*args)


class _Endless:
    """The batches over and over, so that the next fetch goes on where the last one ended."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self.batches


def batches_of(model: nn.Module, classes: Sequence[str], dataset: Any) -> list[Batch]:
    """One batch an image; Insights passes over images without a label, so those get the model's own."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if model.training:
        raise ValueError("the model is in train mode; expected eval mode: call model.eval() first")
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise TypeError(f"classes is a {type(classes).__name__}; expected the names of the classes, a list")
    items = itertools.islice(iter(dataset), len(dataset) if isinstance(dataset, Sized) else None)
    found = [_batch(model, classes, item, i) for i, item in enumerate(items)]
    if not found:
        raise ValueError("dataset gives no image; expected at least one")
    return found


def _batch(model: nn.Module, classes: Sequence[str], item: Any, i: int) -> Batch:
    is_pair = isinstance(item, (tuple, list)) and len(item) == 2
    x, label = item if is_pair else (item, -1)
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] not in (1, 3) or not x.is_floating_point():
        got = f"a {x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise TypeError(
            f"dataset gives {got} as image {i}; expected a floating-point image C x H x W of one or three channels, "
            "as the model takes it, or a pair (image, label)"
        )
    with torch.no_grad():
        scores = model(x[None])
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] != len(classes):
        got = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise ValueError(f"the model gives {got} and classes has {len(classes)} names; expected one score a class")
    if not bool(scores.isfinite().all()):
        raise ValueError(f"the model's scores for image {i} are not finite; expected finite images and scores")
    return Batch(x[None], torch.tensor([_label(label, scores[0], i)]))


def _label(label: Any, scores: Tensor, i: int) -> int:
    """The one class that Insights shows as an image's own: of several the highest scoring, of none the model's."""
    if isinstance(label, Mapping):
        label = label.get("labels", -1)
    try:
        present = torch.as_tensor(-1 if label is None else label).reshape(-1)
        if present.is_floating_point():
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"dataset gives the label {label!r} for image {i}; expected the number of a class") from None
    classes: list[int] = present[present >= 0].tolist() or [int(scores.argmax())]
    if max(classes) >= len(scores):
        raise ValueError(f"dataset gives the label {max(classes)} for image {i}; expected a class below {len(scores)}")
    return max(classes, key=lambda c: float(scores[c]))


def _drawn(draw: Callable[[Any], None]) -> str:
    """A picture as base64, as the page takes it."""
    figure = NotebookFigure(figsize=(3.2, 3.2))
    axes = figure.add_axes((0, 0, 1, 1))
    draw(axes)
    axes.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return base64.b64encode(file.getvalue()).decode("ascii")
