"""The visualizer behind `insights.serve`: Captum's, with our pictures, and without its ways to hang."""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import itertools
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from captum.insights import AttributionVisualizer, Batch
from captum.insights.attr_vis.app import FilterConfig
from captum.insights.attr_vis.config import ATTRIBUTION_METHOD_CONFIG, ATTRIBUTION_NAMES_TO_METHODS
from captum.insights.attr_vis.features import FeatureOutput, ImageFeature
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.notebook_figure import NotebookFigure
from captum_extract_aggregate.insights.offered import check_arguments
from captum_extract_aggregate.insights.requests import RefusedError, told
from captum_extract_aggregate.visualization.figures import overlay

_QUEUE = 8  # requests that are worked on or wait


class Trouble:
    """Holds what the last attribution failed with, if it did."""

    def __init__(self) -> None:
        self.text = ""


class MapFeature(ImageFeature):
    """Shows the image, and the map drawn over it in colours for any colour vision; or why there is none."""

    def __init__(self, to_picture: Callable[[Tensor], Tensor], trouble: Trouble) -> None:
        super().__init__("image", None, None, None)
        self.to_picture, self.trouble = to_picture, trouble

    def visualize(self, attribution: Tensor, data: Tensor, contribution_frac: float) -> FeatureOutput:
        picture = self.to_picture(data[0])

        def image(axes: Any) -> None:
            axes.imshow(picture.permute(1, 2, 0).cpu().numpy())

        def map_(axes: Any) -> None:
            if self.trouble.text:
                text = textwrap.fill(self.trouble.text, 34)
                axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=10, parse_math=False)
            else:
                overlay(axes, picture, attribution[0])

        return FeatureOutput(self.name, _drawn(image), _drawn(map_), self.visualization_type(), contribution_frac)


class Visualizer(AttributionVisualizer):
    """Answers one request at a time, looks at each image once, and draws errors in the map's place.

    No request waits, or is worked on, for more than `seconds`. What was fetched last is what a click on a class goes
    to: it is one page's server, as Captum's.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        batches: Sequence[Batch],
        to_picture: Callable[[Tensor], Tensor],
        method: str,
        seconds: float = 120,
    ) -> None:
        trouble = Trouble()
        super().__init__([model], list(classes), [MapFeature(to_picture, trouble)], _Endless(batches))
        self._count, self._seconds = len(batches), seconds
        self._lock = threading.Lock()  # a model is explained by one thread at a time
        self._queue = threading.BoundedSemaphore(_QUEUE)
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
        _check_settings(settings, self.classes)
        self._asked.settings = settings

    def visualize(self) -> list[Any]:
        """Returns at most four images that fit the page's filters; fewer where there are no more, or no more time."""
        with self._turn():
            if getattr(self._asked, "settings", None) is not None:
                super()._update_config(self._asked.settings)
            self._outputs: list[Any] = []
            try:
                for _ in range(self._count):
                    self._outputs.extend(self._get_outputs())
                    if len(self._outputs) >= self._config.num_examples:
                        break
            except TimeoutError as error:
                if not self._outputs:
                    raise RefusedError(503, str(error)) from None
            return [output for output, _ in self._outputs]

    def _calculate_attribution_from_cache(self, input_index: Any, model_index: Any, target: Any) -> Any:
        with self._turn():
            for name, value, count in (
                ("inputIndex", input_index, len(self._outputs)),
                ("modelIndex", model_index, len(self.models)),
                ("labelIndex", target, len(self.classes)),
            ):
                if type(value) is not int or not 0 <= value < count:
                    raise RefusedError(400, f"{name} is {told(value)}; expected a whole number from 0, below {count}")
            return super()._calculate_attribution_from_cache(input_index, model_index, target)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits until no other request is worked on; within, the model does not start once the time is over."""
        busy = f"other requests are worked on (for at most {self._seconds:g} seconds each); try again"
        with contextlib.ExitStack() as stack:
            if not self._queue.acquire(blocking=False):
                raise RefusedError(503, busy)
            stack.callback(self._queue.release)
            if not self._lock.acquire(timeout=self._seconds):
                raise RefusedError(503, busy)
            stack.callback(self._lock.release)
            end, thread = time.monotonic() + self._seconds, threading.get_ident()

            def check(module: nn.Module, args: Any) -> None:
                if threading.get_ident() == thread and time.monotonic() > end:
                    raise TimeoutError(
                        f"took more than {self._seconds:g} seconds; choose a quicker method or less steps"
                    )

            stack.callback(self.models[0].register_forward_pre_hook(check).remove)
            yield


def _check_settings(settings: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Refuses what the page does not offer."""
    method, arguments = settings["attribution_method"], settings["arguments"]
    prediction, wanted = settings["prediction"], settings["classes"]
    if not isinstance(method, str) or method not in ATTRIBUTION_NAMES_TO_METHODS:
        raise RefusedError(400, unknown_name("attribution_method", str(method)[:80], ATTRIBUTION_NAMES_TO_METHODS))
    if not isinstance(arguments, Mapping):
        raise RefusedError(400, f"arguments is {told(arguments)}; expected an object")
    if prediction not in ("all", "correct", "incorrect"):
        raise RefusedError(400, f"prediction is {told(prediction)}; expected 'all', 'correct' or 'incorrect'")
    if not isinstance(wanted, list) or len(wanted) > len(classes) or not all(name in classes for name in wanted):
        raise RefusedError(400, f"classes is {told(wanted)}; expected a list of the model's classes")
    config = ATTRIBUTION_METHOD_CONFIG.get(method)
    try:
        check_arguments(method, arguments, config.params if config else {})
    except ValueError as error:
        raise RefusedError(400, str(error)) from None


def show_refusals(app: Any) -> None:
    """Lets Captum's page say what its server refuses; it would go blank."""
    flask = importlib.import_module("flask")
    app.view_functions["index"] = lambda: flask.render_template("index.html").replace("<noscript>", _REFUSALS)


_REFUSALS = """
<p id="refused" role="alert" style="margin: 0; padding: 0 1em; color: #a00"></p>
<script>
const ask = window.fetch;
window.fetch = async (address, options) => {
  const answer = await ask(address, options), place = document.getElementById("refused");
  place.textContent = answer.ok ? "" : (await answer.json()).error;
  if (answer.ok) return answer;
  return address === "fetch" ? new Response("[]") : new Promise(() => {});
};
</script>
<noscript>"""


class _Endless:
    """Gives the batches over and over, so that the next fetch goes on where the last one ended."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self.batches


def batches_of(model: nn.Module, classes: Sequence[str], dataset: Any) -> list[Batch]:
    """Returns one batch an image; Insights passes over images without a label, so those get the model's own."""
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if model.training:
        raise InvalidValueError("the model is in train mode; expected eval mode: call model.eval() first")
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise InvalidTypeError(f"classes is a {type(classes).__name__}; expected the names of the classes, a list")
    items = itertools.islice(iter(dataset), len(dataset) if isinstance(dataset, Sized) else None)
    found = [_batch(model, classes, item, i) for i, item in enumerate(items)]
    if not found:
        raise InvalidValueError("dataset gives no image; expected at least one")
    return found


def _batch(model: nn.Module, classes: Sequence[str], item: Any, i: int) -> Batch:
    is_pair = isinstance(item, (tuple, list)) and len(item) == 2
    x, label = item if is_pair else (item, -1)
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] not in (1, 3) or not x.is_floating_point():
        got = f"a {x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InvalidTypeError(
            f"dataset gives {got} as image {i}; expected a floating-point image C x H x W of one or three channels, "
            "as the model takes it, or a pair (image, label)"
        )
    with torch.no_grad():
        scores = model(x[None])
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] != len(classes):
        got = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise InvalidValueError(
            f"the model gives {got} and classes has {len(classes)} names; expected one score a class"
        )
    if not bool(scores.isfinite().all()):
        raise InvalidValueError(f"the model's scores for image {i} are not finite; expected finite images and scores")
    return Batch(x[None], torch.tensor([_label(label, scores[0], i)]))


def _label(label: Any, scores: Tensor, i: int) -> int:
    """Returns the one class that Insights shows as an image's own: of several the highest scoring, of none the
    model's."""
    if isinstance(label, Mapping):
        label = label.get("labels", -1)
    try:
        present = torch.as_tensor(-1 if label is None else label).reshape(-1)
        if present.is_floating_point():
            raise InvalidTypeError
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(
            f"dataset gives the label {label!r} for image {i}; expected the number of a class"
        ) from None
    classes: list[int] = present[present >= 0].tolist() or [int(scores.argmax())]
    if max(classes) >= len(scores):
        raise InvalidValueError(
            f"dataset gives the label {max(classes)} for image {i}; expected a class below {len(scores)}"
        )
    return max(classes, key=lambda c: float(scores[c]))


def _drawn(draw: Callable[[Any], None]) -> str:
    """Returns a picture as base64, as the page takes it."""
    figure = NotebookFigure(figsize=(3.2, 3.2))
    axes = figure.add_axes((0, 0, 1, 1))
    draw(axes)
    axes.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return base64.b64encode(file.getvalue()).decode("ascii")
