"""What stands in front of the page's application: who may ask, how much, and what browsers are told of the answer.

Every page that a browser shows may send requests to this machine. It can read no answer of another origin, unless its
own name is made to mean this machine (then it asks under that name: `Host`); so names are compared with a list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from captum_extract_aggregate.insights.requests import told

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def names_of(port: int, others: Sequence[str] = ()) -> frozenset[str]:
    """Returns this machine's own names with a port, and others, as a browser's address bar shows them.

    Example:
        >>> from captum_extract_aggregate.live.guard import names_of
        >>> sorted(names_of(8000, ["hub.example.org"]))
        ['127.0.0.1:8000', '[::1]:8000', 'hub.example.org', 'localhost:8000']
    """
    own = [f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")]
    if port == 80:  # which browsers leave out
        own += [name.removesuffix(":80") for name in own]
    return frozenset(name.lower() for name in (*own, *others))


class Guard:
    """Is an ASGI application in front of another.

    Args:
        app: the other.
        hosts: the names, with their ports, under which a browser may ask.
    """

    def __init__(self, app: App, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused:
            await _refuse(send, refused)
            return

        async def told_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_encoded(_HEADERS)]
            await send(message)

        await self.app(scope, receive, told_more)

    def _refused(self, scope: Message) -> str:
        """Returns why a request is refused; "" where it is not."""
        if scope["type"] != "http":
            return "expected a request of HTTP"
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").lower())
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return f"the host is {told(', '.join(hosts))}; expected one of {', '.join(sorted(self.hosts))}"
        own = {f"{scheme}://{name}" for scheme in ("http", "https") for name in self.hosts}
        if any(origin not in own for origin in origins):
            return f"the origin is {told(', '.join(origins))}; expected the page's own"
        if headers.get("sec-fetch-site", ["none"])[0] not in ("same-origin", "none"):
            is_visit = headers.get("sec-fetch-mode") == ["navigate"] and scope["method"] == "GET"
            return "" if is_visit else "the request comes from another page; expected the page's own"
        return ""


async def _refuse(send: Send, why: str) -> None:
    body = why.encode("utf-8", "replace")
    headers = {**_HEADERS, "content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    await send({"type": "http.response.start", "status": 403, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
