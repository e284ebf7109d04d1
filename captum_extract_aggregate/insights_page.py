"""The visualizer behind `insights.serve`: Captum's, with our pictures, and without its ways to hang."""

from __future__ import annotations

import base64
import io
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from captum.insights import AttributionVisualizer, Batch
from captum.insights.attr_vis.app import FilterConfig
from captum.insights.attr_vis.config import ATTRIBUTION_METHOD_CONFIG
from captum.insights.attr_vis.features import FeatureOutput, ImageFeature
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

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
                axes.text(0.5, 0.5, textwrap.fill(self.trouble.text, 44), ha="center", va="center", fontsize=7)
            else:
                overlay(axes, picture, attribution[0])

        return FeatureOutput(self.name, _drawn(image), _drawn(map_), self.visualization_type(), contribution_frac)


class Visualizer(AttributionVisualizer):
    """Answers every request: one at a time, looking at each image once, errors drawn in the map's place."""

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

    def visualize(self) -> list[Any]:
        """At most four images that fit the page's filters; fewer where there are no more."""
        with self._lock:
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


def batches_of(model: nn.Module, classes: Sequence[str], dataset: Iterable[Any]) -> list[Batch]:
    """One batch an image; Insights passes over images without a label, so those get the model's own."""
    found = []
    for i, item in enumerate(dataset):
        x, label = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, -1)
        if not isinstance(x, Tensor) or x.ndim != 3:
            got = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise TypeError(f"dataset gives {got} as image {i}; expected C x H x W, as the model takes it")
        with torch.no_grad():
            scores = model(x[None])
        if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] != len(classes):
            got = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise ValueError(f"the model gives {got} and classes has {len(classes)} names; expected one score a class")
        index = int(label) if label is not None and int(label) >= 0 else int(scores.argmax())
        if index >= len(classes):
            raise ValueError(
                f"dataset gives the label {index}, but classes has {len(classes)} names; expected one each"
            )
        found.append(Batch(x[None], torch.tensor([index])))
    if not found:
        raise ValueError("dataset gives no image; expected at least one")
    return found


def _drawn(draw: Callable[[Any], None]) -> str:
    """A picture as base64, as the page takes it."""
    figure = Figure(figsize=(3.2, 3.2))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    draw(axes)
    axes.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return base64.b64encode(file.getvalue()).decode("ascii")
