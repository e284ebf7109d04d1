"""The live page, served on this machine alone."""

from __future__ import annotations

import contextlib
import functools
import importlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate.data.image_files import load_image
from captum_extract_aggregate.data.models_by_name import NamedModel, list_models, takes_scenes
from captum_extract_aggregate.data.weights_here import weights_here
from captum_extract_aggregate.explanation.subject import Names, find_subject, subject_of
from captum_extract_aggregate.insights.offered import names
from captum_extract_aggregate.live.gallery import Gallery, Photo, photo_of, scenes
from captum_extract_aggregate.live.guard import Guard, names_of
from captum_extract_aggregate.live.networks import Networks

INSTALL = 'pip install "captum-extract-aggregate[live]"'
_OPTIONS = {
    "http": "h11",
    "ws": "none",
    "lifespan": "off",
    "log_level": "warning",
    "server_header": False,
    "proxy_headers": False,
    "limit_concurrency": 64,
    "timeout_keep_alive": 30,
    "timeout_graceful_shutdown": 2,
}
_Builds = dict[str, tuple[Callable[[], NamedModel], bool]]


def serve(
    model: nn.Module | str | Mapping[str, nn.Module] | None = None,
    images: Sequence[str | Path] = (),
    *,
    weights: str = "",
    class_names: Names = None,
    method: str = "linear-approximation",
    port: int = 0,
    hosts: Sequence[str] = (),
    blocking: bool = True,
) -> int:
    """Opens a page on this machine alone (loopback) on which maps are made as one chooses; gives its port.

    Drop a photograph on it, choose model, method, layer and class, several side by side; ask whether a map can be
    trusted; copy the address, which holds the view. It loads nothing from any network. Beside the given models it
    offers the embedded ones with scenes of digits, and networks of torchvision's whose weights are on this machine.

    It answers browsers that ask for localhost, 127.0.0.1 or [::1] with this port, from this page, takes pictures of at
    most 20 MiB and 40 million pixels, and works on one request at a time.

    Args:
        model: a network in eval mode, several by name, or a name, as for `explain`; None: those that are offered in any
            case.
        images: files that are on the page from the start, beside the scenes.
        weights, class_names: as for `explain`, of the given model.
        method: the one that is chosen at first.
        port: 0: a free one.
        hosts: other names under which browsers may ask, as their address bar shows them: of a tunnel from another port,
            `"localhost:8080"`.
        blocking: serve from this thread, until it is interrupted; otherwise from another one.

    Raises:
        ImportError: where starlette and uvicorn are not installed; it says how to install them.
        TypeError, ValueError: naming the argument, what was got and what was expected.
        OSError: where the port is taken.
    """
    uvicorn = _uvicorn()
    from captum_extract_aggregate.live.app import application
    from captum_extract_aggregate.live.work import Work

    if isinstance(hosts, str) or not all(isinstance(name, str) for name in hosts):
        raise InvalidTypeError(f"hosts is {hosts!r}; expected a list of names, as a browser's address bar shows them")
    if method not in names():
        raise InvalidValueError(unknown_name("method", method, names()))
    if not 0 <= port < 65536:
        raise InvalidValueError(f"port is {port}; expected 0 (a free one) to 65535")
    networks = Networks(_offered_beside(_given(model, weights, class_names)))
    photos = [photo_of(load_image(path), Path(path).name) for path in images]
    if isinstance(model, str):
        networks[model]  # its mistakes are told here and not in the page
    gallery = Gallery(_in_order(photos, prefers_scenes=isinstance(model, str) and takes_scenes(model)))
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise OSError(f"port {port} is taken ({error.strerror}); expected a free one, or none given") from None
    port = listening.getsockname()[1]
    app = Guard(application(Work(networks, gallery, method)), names_of(port, hosts))
    server = uvicorn.Server(uvicorn.Config(app, **_OPTIONS))
    print(f"The page is at http://localhost:{port}/ (Ctrl-C ends it)", flush=True)
    run = functools.partial(server.run, sockets=[listening])
    if blocking:
        with contextlib.suppress(KeyboardInterrupt):
            run()
    else:
        threading.Thread(target=run, daemon=True).start()
    return int(port)


def _uvicorn() -> Any:
    try:
        importlib.import_module("starlette")
        return importlib.import_module("uvicorn")
    except ImportError as error:
        raise ImportError(f"the live page is served by starlette and uvicorn ({error}); expected {INSTALL}") from None


def _given(model: Any, weights: str, class_names: Names) -> _Builds:
    """Returns how the user's models are built, by name."""
    if model is None:
        return {}
    if isinstance(model, str):
        build = functools.partial(find_subject, model, weights, class_names)
        return {model: (build, takes_scenes(model))}
    several = model if isinstance(model, Mapping) else {type(model).__name__: model}
    found: _Builds = {}
    for name, own in several.items():
        subject = subject_of(own, weights, class_names)
        if own.training:
            raise InvalidValueError(f"model {name!r} is in train mode; expected model.eval()")
        found[str(name)] = (functools.partial(_same, subject), False)
    return found


def _same(subject: NamedModel) -> NamedModel:
    return subject


def _offered_beside(given: _Builds) -> _Builds:
    """Returns the given models, then networks with weights on this machine, then registered ones."""
    here = {n: (functools.partial(find_subject, n, w), False) for n, w in weights_here().items()}
    registered = {n: (functools.partial(find_subject, n, ""), takes_scenes(n)) for n in list_models()}
    return given | {n: about for n, about in (here | registered).items() if n not in given}


def _in_order(photos: list[Photo], prefers_scenes: bool) -> list[Photo]:
    """Returns the pictures with those first that the page begins with."""
    return [*scenes(), *photos] if prefers_scenes else [*photos, *scenes()]
