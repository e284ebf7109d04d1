"""The page of Captum Insights, served on this machine alone."""

from __future__ import annotations

import importlib
import logging
import math
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate.insights.methods import captum_insights, register
from captum_extract_aggregate.insights.requests import Guard

_SILENCE = 30  # seconds after which a connection that says nothing is closed


def serve(
    model: nn.Module,
    classes: Sequence[str],
    dataset: Iterable[Any] | Dataset[Any],
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    method: str = "linear-approximation",
    port: int | None = None,
    blocking: bool = False,
    hosts: Sequence[str] = (),
    seconds: float = 120,
) -> int:
    """Opens Captum Insights on this machine alone (loopback), with all methods in its list; gives the port.

    It answers browsers that ask for localhost, 127.0.0.1 or [::1] with this port, from this page; other names are
    refused, as are arguments that the page does not offer. Requests are worked on one at a time.

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
        hosts: other names under which browsers may ask, as their address bar shows them: of a tunnel from another
            port, `"localhost:8080"`; of a proxy, `"hub.example.org"`.
        seconds: the longest that a request may take (its last forward and backward pass excepted), and may wait for
            the one before it; the map's place, or the page, says so then.

    Raises:
        ImportError: as `register`.
        TypeError, ValueError: naming the argument, what was got and what was expected.
        OSError: where the port is taken.
    """
    captum_insights()
    from captum_extract_aggregate.insights.visualizer import Visualizer, batches_of, show_refusals

    if isinstance(hosts, str) or not all(isinstance(name, str) for name in hosts):
        raise InvalidTypeError(f"hosts is {hosts!r}; expected a list of names, as a browser's address bar shows them")
    if not 0 < seconds < math.inf:
        raise InvalidValueError(f"seconds is {seconds}; expected a number above 0")
    batches = batches_of(model, classes, dataset)
    centre, spread = (_by_channel(n, v, batches[0].inputs.shape[1]) for n, v in (("mean", mean), ("std", std)))
    if not bool((spread > 0).all()):
        raise InvalidValueError(f"std is {std!r}; expected numbers above 0")
    known = register(model, batches[0].inputs)
    if method not in known:
        raise InvalidValueError(unknown_name("method", method, known))
    to_picture = lambda x: (x.cpu() * spread + centre).clamp(0, 1).expand(3, -1, -1)  # noqa: E731
    visualizer = Visualizer(model, classes, batches, to_picture, method, seconds)
    server: Any = importlib.import_module("captum.insights.attr_vis.server")
    opened = _opened(server.app, port) if server.port is None else None
    server.port = server.port if opened is None else opened.port
    show_refusals(server.app)
    _guarded(server.app).allow(server.port, hosts)
    if blocking and opened is not None:
        server.visualizer = visualizer
        print(f"Captum Insights is at http://localhost:{server.port}/ (Ctrl-C ends it)", flush=True)
        opened.serve_forever()
        ended, server.port = server.port, None
        return int(ended)
    if opened is not None:
        threading.Thread(target=opened.serve_forever).start()
    return int(visualizer.serve(bind_all=False))  # says where it is; a server runs already


def _opened(app: Any, port: int | None) -> Any:
    """Returns a server on loopback that has its port, and does not wait for requests that never end."""
    if port is not None and not 0 < port < 65536:
        raise InvalidValueError(f"port is {port}; expected 1 to 65535")
    serving = importlib.import_module("werkzeug.serving")
    handler = type("Handler", (serving.WSGIRequestHandler,), {"timeout": _SILENCE})
    logging.getLogger("werkzeug").disabled = True  # a line for each request
    try:
        listening = socket.create_server(("127.0.0.1", port or 0))
    except OSError as error:
        raise OSError(f"port {port} is taken ({error.strerror}); expected a free one, or none given") from None
    with listening:
        number, fd = listening.getsockname()[1], listening.fileno()
        return serving.make_server("127.0.0.1", number, app, threaded=True, request_handler=handler, fd=fd)


def _guarded(app: Any) -> Guard:
    """Returns the guard in front of Captum's application, which a process has once."""
    if not isinstance(app.wsgi_app, Guard):
        app.wsgi_app = Guard(app.wsgi_app)
        app.config["PROPAGATE_EXCEPTIONS"] = True  # to the guard
    return app.wsgi_app  # type: ignore[no-any-return]


def _by_channel(name: str, values: float | Sequence[float], channels: int) -> Tensor:
    numbers = torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
    if len(numbers) not in (1, channels):
        raise InvalidValueError(f"{name} is {values!r}; expected one number, or one for each of {channels} channels")
    return numbers
