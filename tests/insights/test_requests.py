"""Who may ask the server of Captum Insights, and in which form; without Captum's server behind it."""

import io
import json

import pytest

from captum_extract_aggregate.insights.requests import LARGEST_BODY, Guard, RefusedError


class Asked:
    """An application that keeps what it was asked, and answers with `status` or raises."""

    def __init__(self, status="200 OK", error=None):
        self.status, self.error, self.bodies = status, error, []

    def __call__(self, environ, start_response):
        if self.error is not None:
            raise self.error
        self.bodies.append(environ["wsgi.input"].read())
        start_response(self.status, [("Content-Type", "text/html")])
        return [b"<b>", b"page</b>"]


class NeverComes:
    def read(self, size):
        raise TimeoutError


def ask(app, port=5000, hosts=(), body=None, stream=None, **environ):
    """Status, headers and body of an answer."""
    guard = Guard(app)
    guard.allow(port, hosts)
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "localhost:5000", "wsgi.input": io.BytesIO()}
    if body is not None:
        kind, length = "application/json", str(len(body))
        request |= {"REQUEST_METHOD": "POST", "CONTENT_TYPE": kind, "CONTENT_LENGTH": length}
        request["wsgi.input"] = stream or io.BytesIO(body)
    begun = []
    answer = guard(request | environ, lambda *status_and_headers: begun.extend(status_and_headers))
    return begun[0], dict(begun[1]), b"".join(answer)


@pytest.mark.parametrize("host", ["localhost:5000", "LOCALHOST:5000", "127.0.0.1:5000", "[::1]:5000"])
def test_this_machine_s_names(host):
    status, headers, body = ask(Asked(), HTTP_HOST=host, HTTP_ORIGIN=f"http://{host}")
    assert (status, body) == ("200 OK", b"<b>page</b>")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name in headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:5000",
        "localhost:5001",
        "localhost",
        "localhost.evil.example:5000",
        "127.0.0.1.evil.example:5000",
        "evil.example,localhost:5000",
        "localhost:5000@evil.example",
        "127.1:5000",
        "0.0.0.0:5000",
        "localhost.:5000",
        "localhost:5000\x00",
        "",
    ],
)
def test_other_names_read_nothing(host):
    app = Asked()
    status, headers, body = ask(app, HTTP_HOST=host)
    assert status == "403 Forbidden"
    assert headers["Content-Type"] == "application/json"
    assert "expected localhost:5000" in json.loads(body)["error"]
    assert app.bodies == []


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "http://evil.example:5000", "http://localhost:8888", "http://localhost", "file://"],
)
@pytest.mark.parametrize("body", [None, b"{}"])
def test_other_pages_may_not_ask(origin, body):
    app = Asked()
    assert ask(app, body=body, HTTP_ORIGIN=origin)[0] == "403 Forbidden"
    assert ask(app, body=body, HTTP_ORIGIN=origin, REQUEST_METHOD="OPTIONS")[0] == "403 Forbidden"
    assert app.bodies == []


def test_names_that_the_user_gives():
    hosts = ["Hub.example.org", "localhost:8080"]
    assert ask(Asked(), hosts=hosts, HTTP_HOST="hub.example.org", HTTP_ORIGIN="https://hub.example.org")[0] == "200 OK"
    assert ask(Asked(), hosts=hosts, HTTP_HOST="localhost:8080", HTTP_ORIGIN="http://localhost:8080")[0] == "200 OK"
    assert ask(Asked(), hosts=hosts)[0] == "200 OK"
    assert ask(Asked(), hosts=hosts, HTTP_HOST="hub.example.org:1")[0] == "403 Forbidden"
    assert ask(Asked(), 80, HTTP_HOST="localhost")[0] == "200 OK"


def test_the_body_reaches_the_application():
    app = Asked()
    assert ask(app, body=b'{"a": 1}', CONTENT_TYPE="application/json; charset=utf-8")[0] == "200 OK"
    assert app.bodies == [b'{"a": 1}']


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"CONTENT_TYPE": "text/plain"}, 415),
        ({"CONTENT_TYPE": ""}, 415),
        ({"CONTENT_TYPE": "text/plain; a=application/json"}, 415),
        ({"CONTENT_TYPE": "application/x-www-form-urlencoded"}, 415),
        ({"CONTENT_LENGTH": ""}, 411),
        ({"CONTENT_LENGTH": "-1"}, 411),
        ({"CONTENT_LENGTH": "²"}, 411),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"CONTENT_LENGTH": str(LARGEST_BODY + 1)}, 413),
        ({"CONTENT_LENGTH": "9" * 5000}, 413),
        ({"stream": NeverComes()}, 408),
        ({"body": b""}, 400),
        ({"body": b"[]"}, 400),
        ({"body": b"null"}, 400),
        ({"body": b"{"}, 400),
        ({"body": b'{"a": NaN}'}, 400),
        ({"body": b'{"a": -Infinity}'}, 400),
        ({"body": b'{"a": "\x00"}'}, 400),
        ({"body": b'{"a": "\xff"}'}, 400),
        ({"body": b'{"a":' + b"[" * 100_000}, 400),
        ({"body": b"{}", "CONTENT_LENGTH": "1"}, 400),
    ],
)
def test_only_json_is_work(change, status):
    app = Asked()
    found, headers, body = ask(app, **{"body": b"{}", **change})
    assert int(found.split()[0]) == status
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["error"]
    assert app.bodies == []


def test_failures_are_one_line(caplog):
    assert ask(Asked(error=RefusedError(503, "busy")))[::2] == ("503 Service Unavailable", b'{"error": "busy"}')
    assert ask(Asked("404 NOT FOUND"))[::2] == ("404 Not Found", b'{"error": "Not Found"}')
    status, _, body = ask(Asked(error=KeyError("secret")))
    assert status == "500 Internal Server Error"
    assert b"secret" not in body
    assert "secret" in caplog.text  # where the server was started


def test_no_icon():
    app = Asked()
    assert ask(app, PATH_INFO="/favicon.ico")[::2] == ("204 No Content", b"")
    assert ask(app, PATH_INFO="/favicon.ico", HTTP_HOST="evil.example")[0] == "403 Forbidden"
    assert app.bodies == []
