"""What stands in front of Captum's server: who may ask, and in which form; a failure is one line of JSON.

Every page that a browser shows may send requests to this machine. It can read no answer of another origin, unless its
own name is made to mean this machine (then it asks under that name: `Host`), and it can send no JSON unasked. So names
are compared with a list, and work is done for JSON alone.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

from captum_extract_aggregate._common.errors import InvalidValueError

LARGEST_BODY = 1 << 20  # bytes; the names of 20,000 classes are less
# Captum's page has a script in its HTML; a notebook on this machine may frame it.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"
)
_FORMS = {
    "/fetch": {"attribution_method", "arguments", "prediction", "classes"},
    "/attribute": {"inputIndex", "modelIndex", "labelIndex"},
}
_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", _POLICY),
]

Environ = dict[str, Any]
Answer = tuple[int, list[tuple[str, str]], bytes]
_NO_ICON: Answer = (204, [], b"")  # a browser would report an error of the page


class RefusedError(Exception):
    """Refuses a request, with the status of HTTP that says so."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class Guard:
    """Is a WSGI application in front of another.

    Attributes:
        hosts: the names, with their ports, under which a browser may ask.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.hosts: frozenset[str] = frozenset()
        self._expected = ""

    def allow(self, port: int, others: Sequence[str] = ()) -> None:
        """Returns this machine's own names with `port`, and other ones as a browser's address bar shows them."""
        own = [f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")]
        if port == 80:  # which browsers leave out
            own += [name.removesuffix(":80") for name in own]
        self.hosts = frozenset(name.lower() for name in (*own, *others))
        self._expected = f"localhost:{port} (insights.serve(..., hosts=[...]) allows other names)"

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            self._check(environ)
            if environ.get("PATH_INFO") == "/favicon.ico":
                status, headers, body = _NO_ICON
            else:
                status, headers, body = _answered(self.app, environ)
            if status >= 400:
                raise RefusedError(status, HTTPStatus(status).phrase)
        except RefusedError as refused:
            status, headers, body = _said(refused.status, str(refused))
        except Exception:
            logging.getLogger(__name__).exception("a request failed")
            status, headers, body = _said(500, "the server failed; what happened stands where it was started")
        start_response(f"{status} {HTTPStatus(status).phrase}", [*headers, *_HEADERS])
        return [body]

    def _check(self, environ: Environ) -> None:
        host, origin = environ.get("HTTP_HOST", "").lower(), environ.get("HTTP_ORIGIN", "").lower()
        if host not in self.hosts:
            raise RefusedError(403, f"the host is {told(host)}; expected {self._expected}")
        if origin and origin not in {f"{scheme}://{name}" for scheme in ("http", "https") for name in self.hosts}:
            raise RefusedError(403, f"the origin is {told(origin)}; expected the page's own, of {self._expected}")
        if environ["REQUEST_METHOD"] == "POST":
            body, content = _json(environ)
            form = _FORMS.get(environ.get("PATH_INFO", ""), set(content))
            if set(content) != form:
                raise RefusedError(
                    400, f"the body holds {told(', '.join(content))}; expected {', '.join(sorted(form))}"
                )
            environ["wsgi.input"] = io.BytesIO(body)


def _json(environ: Environ) -> tuple[bytes, dict[str, Any]]:
    """Returns the body of a request, and the JSON object that it has to be."""
    kind = environ.get("CONTENT_TYPE", "")
    if kind.split(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, f"the content type is {told(kind)}; expected application/json")
    length = environ.get("CONTENT_LENGTH") or ""
    if not (length.isascii() and length.isdigit()) or "HTTP_TRANSFER_ENCODING" in environ:
        raise RefusedError(411, f"the content length is {told(length)}; expected the body's number of bytes")
    if len(length) > 12 or int(length) > LARGEST_BODY:
        raise RefusedError(413, f"the content length is {told(length)}; expected at most {LARGEST_BODY} bytes")
    try:
        body: bytes = environ["wsgi.input"].read(int(length))
    except OSError:  # it did not come in time
        raise RefusedError(408, f"the body did not come; expected {length} bytes") from None
    try:
        content = json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is no JSON; expected an object") from None
    if not isinstance(content, dict):
        raise RefusedError(400, f"the body is {told(content)}; expected a JSON object")
    return body, content


def _no_number(name: str) -> None:
    raise InvalidValueError(f"{name} is no JSON")


def told(value: Any) -> str:
    """Returns what was got, in an error: a short value as it is, of others the kind."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _answered(app: Callable[..., Iterable[bytes]], environ: Environ) -> Answer:
    """Returns the whole answer of an application."""
    begun: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., Any]:
        begun[:] = [int(status.split()[0]), headers]
        return written.append

    chunks = app(environ, start_response)
    try:
        written.extend(chunks)
    finally:
        getattr(chunks, "close", lambda: None)()
    return begun[0], begun[1], b"".join(written)


def _said(status: int, text: str) -> Answer:
    body = json.dumps({"error": text}).encode()
    return status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))], body
