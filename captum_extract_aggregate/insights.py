"""Captum Insights with this package's methods and Captum's layer methods: choose a method, and the layer by name.

Captum Insights was part of Captum up to 0.8.0: `pip install "captum[insights]==0.8.0" "numpy<2"`. On any version
`captum-extract-aggregate explain --html` makes a page without it.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import captum
import torch
from captum.attr import Attribution, FeatureAblation
from captum.log import log_usage
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_extract_aggregate.aggregate import AGGREGATES
from captum_extract_aggregate.attr import MetaSaliency
from captum_extract_aggregate.biases import bias_layers
from captum_extract_aggregate.layers import find_layer
from captum_extract_aggregate.maps import upsample
from captum_extract_aggregate.messages import unknown_name
from captum_extract_aggregate.methods import METHODS, WITH_LAYERS, make_method
from captum_extract_aggregate.stages import default_layers

INSTALL = 'pip install "captum[insights]==0.8.0" "numpy<2"'
INPUT = "the input"
_EXTRACTS = ("bias", "scaling", "conv1x1", "conv3x3", "conv5x5", "depthwise3x3", "layer")
_SMALLEST, _TINY = 1e-30, 1e-4  # Captum warns below 1e-5


@dataclass(frozen=True)
class _Choice:
    """A method in the page's list: its arguments, each a whole number or one of some words (Insights sends no others),
    and whether it goes with one layer, or with all of them."""

    arguments: Mapping[str, int | tuple[str, ...]] = field(default_factory=dict)
    one_layer: bool = True
    convert: dict[str, Callable[[Any], Any]] = field(default_factory=dict)


_POSITIVE = {"positive": ("abs", "relu")}
_SHARES = {"sums": ("signed", "positive"), "lost": ("drop", "spread")}
_CHOICES: dict[str, _Choice] = {
    "gradient": _Choice({"aggregate": ("max_abs", "sum", "norm")}),
    "normgrad": _Choice({"virtual_identity": ("yes", "no")}, convert={"virtual_identity": lambda word: word != "no"}),
    "gradcam-pos": _Choice(_POSITIVE),
    "gradmid": _Choice(_POSITIVE),
    "rectgrad": _Choice({"percentile": 98}),
    "rectgrad-mod": _Choice({"percentile": 98}),
    "lrp": _Choice({"gamma": ("0", "0.25", "1", "inf")}, convert={"gamma": float}),
    "excitation": _Choice(_SHARES),
    "contrastive-excitation": _Choice({"clamp": ("map", "contrast"), **_SHARES}),
    "cumulative-gradcam": _Choice(one_layer=False),
    "cumulative-gradmid": _Choice(_POSITIVE, one_layer=False),
    "aggregated-activity": _Choice(one_layer=False),
    "fullgrad": _Choice({"rescale": ("channel_joint", "layer_map")}, one_layer=False),
    "normgrad-combined": _Choice({"mode": ("product", "sum")}, one_layer=False),
    "extract-aggregate": _Choice({"extract": _EXTRACTS, "aggregate": tuple(AGGREGATES)}),
    "captum:LayerConductance": _Choice({"n_steps": 25}),
    "captum:LayerIntegratedGradients": _Choice({"n_steps": 25}),
    "captum:InternalInfluence": _Choice({"n_steps": 25}),
}
_CAPTUMS = (
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerActivation",
    "LayerConductance",
    "LayerIntegratedGradients",
    "InternalInfluence",
    "LayerDeepLift",
    "GuidedGradCam",
)
META = "meta-saliency"


def names() -> list[str]:
    """The methods that `register` adds, as they stand in the page's list.

    Example:
        >>> from captum_extract_aggregate.insights import names
        >>> [name for name in names() if "grad" in name.lower()][:3]
        ['normgrad', 'selective-normgrad', 'gradient']
    """
    return [*METHODS, *WITH_LAYERS, "extract-aggregate", META, *(f"captum:{name}" for name in _CAPTUMS)]


def register(model: nn.Module | None = None, inputs: Tensor | None = None) -> list[str]:
    """Puts all methods of this package, and Captum's layer methods, into the list of Captum Insights.

    Args:
        model: its layers are offered by name; None: the layer's name is typed in, and nothing typed is the last of
            `default_layers`.
        inputs: an input of the model, `1 x C x H x W`, from which the default layers are found more surely.

    Returns:
        The names of the methods.

    Raises:
        ImportError: where Captum has no Insights (0.9), or they are not installed; it says how to install them.
        TypeError: for a model that is no module.
    """
    config = _insights()
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module (or None)")
    ends, others = _layers(model, inputs)
    for name in names():
        choice = _choice(name)
        shown: dict[str, Any] = {}
        if choice.one_layer:
            shown["layer"] = config.StrConfig(value="")
        if choice.one_layer and model is not None:
            biased = (
                [n for n, m in bias_layers(model).items() if not isinstance(m, nn.Linear)] if name == "bias" else []
            )
            first = [*ends, INPUT] if name != "bias" else biased
            offered = [*first, *(layer for layer in others if layer not in first)] or [INPUT]
            shown["layer"] = config.StrEnumConfig(value=(biased or ends or first or offered)[-1], limit=offered)
        for argument, values in choice.arguments.items():
            if isinstance(values, int):
                shown[argument] = config.NumberConfig(value=values, limit=(1, 100))
            else:
                shown[argument] = config.StrEnumConfig(value=values[0], limit=list(values))
        config.ATTRIBUTION_NAMES_TO_METHODS[name] = _adapter(name)
        config.ATTRIBUTION_METHOD_CONFIG[name] = config.ConfigParameters(params=shown)
    # Captum's goes through the image value by value, for minutes in which the page answers nothing
    config.ATTRIBUTION_NAMES_TO_METHODS[FeatureAblation.get_name()] = _PatchAblation
    config.ATTRIBUTION_METHOD_CONFIG[FeatureAblation.get_name()] = config.ConfigParameters(
        params={"patches": config.NumberConfig(value=8, limit=(1, 32))}
    )
    return names()


def _insights() -> Any:
    """The module of Insights that lists its methods, or our error."""
    try:
        importlib.import_module("captum.insights.attr_vis.server")
        return importlib.import_module("captum.insights.attr_vis.config")
    except ImportError as error:
        raise ImportError(
            f"Captum Insights is not here (captum {captum.__version__}: {error}): it was part of Captum up to 0.8.0; "
            f"expected {INSTALL} (or, on any version, the page of captum-extract-aggregate explain --html)"
        ) from None


def _layers(model: nn.Module | None, inputs: Tensor | None) -> tuple[list[str], list[str]]:
    """The layers to choose from: the default ones, and all that hold parameters of their own."""
    if model is None:
        return [], []
    own = [name for name, m in model.named_modules() if name and any(True for _ in m.parameters(recurse=False))]
    try:
        return list(default_layers(model, inputs)), own
    except ValueError:  # none: a layer is chosen from all
        return [], own


def _choice(name: str) -> _Choice:
    if name == META:
        methods = tuple(n for n in METHODS if _choice(n).one_layer)
        return _Choice({"method": methods, "lr": ("0.001", "0.0025", "0.01")}, convert={"lr": float})
    return _CHOICES.get(name, _Choice())


# --- From a layer's map to what the page takes -----------------------------------------------------------------------


def _adapter(name: str) -> type[Attribution]:
    """A class that Insights can build from a model alone, and whose result is of the input's shape."""

    class Adapter(_Adapter):
        method_name = name

    Adapter.__name__ = Adapter.__qualname__ = name
    return Adapter


class _Adapter(Attribution):
    """One method of the list: `attribute` makes it at the layer that was chosen, and brings its map to the input."""

    method_name: str

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    @classmethod
    def get_name(cls) -> str:
        return cls.method_name

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        layer: str = "",
        **arguments: Any,
    ) -> Any:
        """Maps of the inputs' shapes, finite and not zero: the page waits for ever for others."""
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        method, of_call = self._made(tensors[0], layer, arguments)
        offered = {
            "target": target,
            "additional_forward_args": additional_forward_args,
            "baselines": tuple(torch.zeros_like(x) for x in tensors),
        }
        taken = inspect.signature(method.attribute).parameters
        maps = method.attribute(tensors, **{key: offered[key] for key in offered if key in taken}, **of_call)
        maps = maps if isinstance(maps, (list, tuple)) else [maps]
        return tuple(like_input(maps[min(i, len(maps) - 1)], x) for i, x in enumerate(tensors))

    def _made(self, x: Tensor, layer: str, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The method on its layer, and the arguments that its call takes."""
        name, model = self.method_name, self.forward_func
        choice = _choice(name)
        values = {key: choice.convert.get(key, lambda value: value)(value) for key, value in given.items()}
        if name == META:
            return MetaSaliency(make_method(values["method"], model, self._found(x, layer)), lr=values["lr"]), {}
        if name == "extract-aggregate":
            name = f"{values.pop('extract')}:{values.pop('aggregate')}"
        if name.startswith("captum:"):
            return make_method(name, model, self._found(x, layer)), values
        layers = self._found(x, layer) if choice.one_layer else list(default_layers(model, x).values())
        return make_method(name, model, layers, **values), {}

    def _found(self, x: Tensor, layer: str) -> Sequence[nn.Module | None]:
        if layer == INPUT:
            return [None]
        if layer:
            return [find_layer(layer, self.forward_func)]
        return list(default_layers(self.forward_func, x).values())[-1:]


class _PatchAblation(FeatureAblation):
    """Captum's, of square patches of all channels."""

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(self, inputs: Any, patches: int = 8, **kwargs: Any) -> Any:  # type: ignore[override]
        """One forward for each of `patches` x `patches` patches."""
        (x,) = inputs if isinstance(inputs, tuple) else (inputs,)
        rows, columns = (torch.arange(n, device=x.device) * patches // n for n in x.shape[2:])
        mask = rows[:, None] * patches + columns
        return FeatureAblation.attribute.__wrapped__(self, (x,), feature_mask=(mask[None, None],), **kwargs)


def like_input(map_: Tensor, x: Tensor) -> Tensor:
    """A map in the shape of an image `N x C x H x W`: scaled by its largest magnitude, finite and not zero.

    A map that is zero everywhere gets one pixel, in the corner.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.insights import like_input
        >>> like_input(torch.zeros(1, 1, 2, 2), torch.rand(1, 3, 4, 4)).count_nonzero().item()
        3
    """
    map_ = torch.nan_to_num(map_.detach(), nan=0.0, posinf=0.0, neginf=0.0).to(x.dtype)
    if map_.shape != x.shape:
        if map_.ndim != 4 or x.ndim != 4:
            raise ValueError(
                f"a map {tuple(map_.shape)} cannot be drawn on an input {tuple(x.shape)}; expected images N x C x H x W"
            )
        map_ = upsample(map_.sum(1, keepdim=True), x.shape[2:]).expand_as(x) / x.shape[1]
    largest = map_.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
    pixel = torch.zeros_like(map_)
    pixel[..., 0, 0] = _TINY
    return torch.where(largest > _SMALLEST, map_ / largest.clamp(min=_SMALLEST), pixel)


# --- The page --------------------------------------------------------------------------------------------------------


def serve(
    model: nn.Module,
    classes: Sequence[str],
    dataset: Iterable[Any] | Dataset[Any],
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    method: str = "normgrad",
    port: int | None = None,
    blocking: bool = False,
) -> int:
    """Opens Captum Insights on this machine alone (loopback), with all methods in its list; gives the port.

    Args:
        model: a classifier in eval mode with outputs `N x classes`.
        classes: their names.
        dataset: images as the model takes them, `C x H x W` with one or three channels, or `(image, label)`, finitely
            many. A label is a class, or a dictionary with several under `labels` (as `DigitScenes` gives; the one that
            the model prefers is shown). An image without one (or with -1) is shown under the class that the model
            gives it, which then always counts as correct.
        mean, std: of the normalisation, to show the images: one number, or one a channel.
        method: the one that is chosen at first.
        port: None: a free one. A process has one page: a second call shows its images on the page of the first.
        blocking: serve from this thread, until it is interrupted; otherwise from another one. Where this process has
            a page already, it returns at once in any case.

    Raises:
        ImportError: as `register`.
        TypeError, ValueError: naming the argument, what was got and what was expected.
        OSError: where the port is taken.
    """
    _insights()
    from captum_extract_aggregate.insights_page import Visualizer, batches_of

    batches = batches_of(model, classes, dataset)
    centre, spread = (_by_channel(n, v, batches[0].inputs.shape[1]) for n, v in (("mean", mean), ("std", std)))
    if not bool((spread > 0).all()):
        raise ValueError(f"std is {std!r}; expected numbers above 0")
    known = register(model, batches[0].inputs)
    if method not in known:
        raise ValueError(unknown_name("method", method, known))
    _answer_favicon()
    to_picture = lambda x: (x.cpu() * spread + centre).clamp(0, 1).expand(3, -1, -1)  # noqa: E731
    visualizer = Visualizer(model, classes, batches, to_picture, method)
    server = _server()
    if port is not None and server.port is None:
        _check_free(port)
    if not blocking or server.port is not None:
        return int(visualizer.serve(port=port, bind_all=False))
    # Captum's own blocking server says its address when it ends, and cannot be interrupted
    server.visualizer, server.port = visualizer, port or server.get_free_tcp_port()
    logging.getLogger("werkzeug").disabled = True
    print(f"Captum Insights is at http://localhost:{server.port}/ (Ctrl-C ends it)", flush=True)
    server.run_app(debug=False)
    return int(server.port)


def _answer_favicon() -> None:
    """Browsers ask for an icon; the server has none, which they report as an error of the page."""
    app = _server().app
    if "favicon" not in app.view_functions and not getattr(app, "_got_first_request", False):
        app.add_url_rule("/favicon.ico", "favicon", lambda: ("", 204))


def _server() -> Any:
    return importlib.import_module("captum.insights.attr_vis.server")


def _by_channel(name: str, values: float | Sequence[float], channels: int) -> Tensor:
    numbers = torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
    if len(numbers) not in (1, channels):
        raise ValueError(f"{name} is {values!r}; expected one number, or one for each of {channels} channels")
    return numbers


def _check_free(port: int) -> None:
    """Captum's server says that its port is taken where nobody hears it."""
    if not 0 < port < 65536:
        raise ValueError(f"port is {port}; expected 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OSError(f"port {port} is taken ({error.strerror}); expected a free one, or none given") from None
