"""Who may ask: names, origins, and what browsers are told of every answer."""

import asyncio

import pytest

from captum_extract_aggregate.live.guard import POLICY, Guard, names_of

HOSTS = names_of(8000, ["hub.example.org"])


async def _hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


def asked(method="GET", kind="http", **headers):
    """The status, the headers and the body of an answer."""
    sent = []

    async def send(message):
        sent.append(message)

    listed = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": "/", "headers": listed}
    asyncio.run(Guard(_hello, HOSTS)(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost:8000"},
        {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"},
        {"host": "[::1]:8000", "sec_fetch_site": "same-origin"},
        {"host": "LOCALHOST:8000", "sec_fetch_site": "none"},
        {"host": "hub.example.org", "origin": "https://hub.example.org"},
        {"host": "localhost:8000", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},  # a link elsewhere
    ],
)
def test_the_page_s_own_names_are_answered(headers):
    status, said, body = asked(**headers)
    assert (status, body) == (200, b"hello")
    assert said[b"content-security-policy"].decode() == POLICY
    assert said[b"x-content-type-options"] == b"nosniff"
    assert b"access-control-allow-origin" not in said


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "localhost"},
        {"host": "localhost:8001"},
        {"host": "localhost:8000", "origin": "http://evil.example"},
        {"host": "localhost:8000", "origin": "null"},
        {"host": "localhost:8000", "origin": "http://localhost:8001"},
        {"host": "localhost:8000", "sec_fetch_site": "cross-site"},
        {"host": "localhost:8000", "sec_fetch_site": "same-site"},
        {"host": "localhost:8000", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "method": "POST"},
        {"host": "localhost:8000", "kind": "websocket"},
        {"host": "\xff" * 9},
    ],
)
def test_others_get_nothing(headers):
    status, said, body = asked(**headers)
    assert status == 403
    assert b"expected" in body
    assert b"hello" not in body
    assert said[b"content-security-policy"].decode() == POLICY


def test_two_hosts_are_none():
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost:8000"), (b"host", b"evil.example")]
    asyncio.run(Guard(_hello, HOSTS)({"type": "http", "method": "GET", "headers": headers}, None, send))
    assert sent[0]["status"] == 403


def test_the_usual_port_is_left_out_by_browsers():
    assert {"localhost", "localhost:80"} <= names_of(80)
