"""The live page: its server, wrong arguments, wrong requests, and the page in a real browser."""

import http.client
import importlib.util
import json
import re
import socket
import sys
import time

import pytest
import torch

from captum_extract_aggregate.live import serve
from tests.browser import barriers, open_page
from tests.live.given import EVIL, content, needs_server, picture, tiny

NAMES = ["cat", EVIL, "dog"]


@needs_server
@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"method": "gradcamm"}, ValueError, "did you mean 'gradcam'"),
        ({"port": 70000}, ValueError, "port is 70000"),
        ({"hosts": "hub.example.org"}, TypeError, "hosts is 'hub.example.org'; expected a list"),
        ({"model": 3}, TypeError, "model is a int"),
        ({"model": "resnet50"}, ValueError, "has no weights"),
        ({"model": torch.nn.Linear(1, 1).train()}, ValueError, "is in train mode"),
        ({"images": ["nothing.png"]}, ValueError, "there is no file"),
    ],
)
def test_wrong_arguments(arguments, error, said):
    with pytest.raises(error, match=said):
        serve(**arguments)


@needs_server
def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} is taken"):
            serve(port=port)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=re.escape('pip install "captum-extract-aggregate[live]"')):
        serve()


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "<b>photo.png"
    path.write_bytes(content(picture(300, 200)))
    return serve({"tiny": tiny(), EVIL: tiny()}, [path], class_names=NAMES, method="gradcam", blocking=False)


@pytest.fixture(scope="module")
def asked(port):
    """Asks the server: the status, and the body (of JSON)."""

    def ask(path, body=None, method=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Host": f"localhost:{port}"} | {name.replace("_", "-"): v for name, v in headers.items()}
        if body is not None and not isinstance(body, bytes):
            headers, body = {"Content-Type": "application/json"} | headers, json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if answer.getheader("Content-Type") == "application/json" else text

    return ask


MAP = {"model": "tiny", "method": "gradcam"}


def lines(body):
    return [json.loads(line) for line in body.splitlines()]


@needs_server
class TestServer:
    def test_it_listens_on_loopback_alone(self, port):
        with socket.socket() as other:  # another address of the same interface: what listens to all answers there, too
            assert other.connect_ex(("127.0.0.2", port)) != 0

    def test_it_answers_its_own_page(self, asked):
        assert b"<title>Saliency maps</title>" in asked("/")[1]
        for path in ("/live.js", "/draw.js", "/live.css", "/style.css", "/favicon.ico"):
            assert asked(path)[0] in (200, 204)
        photo = asked("/api/pictures")[1][0]
        assert photo["name"] == "<b>photo.png"
        assert asked(f"/api/pictures/{photo['id']}")[1].startswith(b"\x89PNG")
        status, told = asked("/api/look", {"picture": photo["id"], "model": "tiny"})
        assert (status, len(told["scores"])) == (200, 3)
        status, body = asked("/api/maps", {"picture": photo["id"], "maps": [MAP, MAP | {"target": 7}]})
        assert status == 200
        assert [event["state"] for event in lines(body)] == ["begun", "made", "begun", "failed", "ended"]

    @pytest.mark.parametrize("path", ["/", "/api/offer", "/api/look", "/api/pictures", "/live.js"])
    def test_other_names_and_pages_get_nothing(self, path, asked):
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert asked(path, **headers)[0] == 403

    def test_what_is_wrong_is_refused(self, asked):
        assert asked("/api/look", {"picture": "x", "model": "tiny"})[1]["error"].startswith("the picture is not here")
        assert asked("/api/look", {"picture": "scene-0", "model": "os:getcwd"})[0] == 400
        assert asked("/api/look", b"{}", Content_Type="text/plain")[0] == 415
        assert asked("/api/look", b"[", Content_Type="application/json")[0] == 400
        assert asked("/api/maps", b"x" * 70_000, Content_Type="application/json")[0] == 413
        assert asked("/api/pictures", b"x", Content_Type="text/plain")[0] == 415
        assert asked("/api/pictures", b"x", Content_Type="image/png")[0] == 400
        assert asked("/api/pictures", b"", Content_Type="image/png", Content_Length=str(1 << 40))[0] == 413
        assert asked("/api/pictures/nothing")[0] == 400
        assert [asked(path)[0] for path in ("/api/nothing", "/../live.py", "/%2e%2e/live.py")] == [404] * 3
        assert asked("/api/maps")[0] == 405
        assert lines(asked("/api/trust", {"picture": "x", "map": MAP})[1])[0]["state"] == "refused"

    def test_a_chunked_body_has_an_end_too(self, port):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sent:
            head = f"POST /api/maps HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
            sent.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
            assert b" 413 " in sent.recv(100)

    def test_work_ends_where_nobody_listens(self, port, asked):
        body = json.dumps({"picture": "scene-0", "maps": [MAP | {"method": "rectgrad", "layer": "the input"}] * 12})
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            head = f"POST /api/maps HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
            leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        begun = time.monotonic()
        assert asked("/api/look", {"picture": "scene-0", "model": "tiny"})[0] == 200  # its turn comes
        assert time.monotonic() - begun < 30

    def test_the_page_is_there_while_a_body_never_comes(self, port, asked):
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.sendall(f"POST /api/look HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 9\r\n\r\n".encode())
            assert asked("/")[0] == asked("/api/offer")[0] == 200


def ready(page):
    """Waits until all maps are there."""
    page.wait_for_selector("#progress", state="hidden")
    page.wait_for_selector(".card:not(.waits)")
    page.wait_for_selector(".card.waits", state="detached")


def shown(page, i=0):
    """A map as pixels, written as text."""
    return page.locator("canvas").nth(i).evaluate("canvas => canvas.toDataURL()")


def chosen(page, i, name):
    return page.locator(".card").nth(i).get_by_label(name, exact=True)


def seen_by_axe(page):
    """What keeps someone from using the page; nothing where axe is not installed."""
    return barriers(page) if importlib.util.find_spec("axe_playwright_python") else []


@needs_server
def test_in_a_browser(port, tmp_path):
    """By mouse, then by keyboard, then at 390 pixels: one session."""
    with open_page(f"http://127.0.0.1:{port}/", expected="status of 400") as page:
        page.set_default_timeout(120_000)  # the first trust imports what measures need, which takes a while
        ready(page)
        caption = page.locator("figcaption")
        assert page.locator("img").count() == page.locator("#pictures button").count() == 13
        assert caption.first.inner_text().startswith("gradcam at 3, for ")
        first = shown(page)
        # what is chosen is drawn, and the address holds it
        chosen(page, 0, "Class").select_option("1")
        ready(page)
        assert f"for {EVIL} (1) (score" in caption.first.inner_text()
        assert shown(page) != first
        page.click("#more")
        ready(page)
        assert page.locator(".card").count() == 2
        chosen(page, 1, "Method").select_option("lrp")
        ready(page)
        chosen(page, 1, "gamma").select_option("0.25")
        chosen(page, 1, "Layer").select_option("the input")
        ready(page)
        assert caption.nth(1).inner_text().startswith("lrp at input, for")
        chosen(page, 1, "Model").select_option(EVIL)
        ready(page)
        # what fails is said in the map's place
        chosen(page, 1, "Layer").select_option("6")
        ready(page)
        assert "no positions" in caption.nth(1).inner_text()
        chosen(page, 1, "Layer").select_option("0")
        ready(page)
        # a picture of a name that is HTML, sent
        (tmp_path / "a.png").write_bytes(content(picture(50, 40, seed=7)))
        before = shown(page)
        page.set_input_files(
            "#file", {"name": EVIL, "mimeType": "image/png", "buffer": content(picture(50, 40, seed=7))}
        )
        page.get_by_role("radio", name=EVIL).wait_for()
        ready(page)
        assert shown(page) != before
        assert page.inner_text("#verdict") == f"{EVIL}."
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"nothing"})
        page.get_by_text("'x.png' is not a picture").wait_for()
        # the link restores the view
        view, pictures = page.url, [shown(page), shown(page, 1)]
        page.goto("about:blank")
        page.goto(view)
        ready(page)
        assert [shown(page), shown(page, 1)] == pictures
        assert chosen(page, 1, "Layer").input_value() == "0"
        # trust, on request: of a network whose decision no removal changes
        page.locator(".doubt").first.click()
        page.locator(".trust table").wait_for()
        assert page.locator(".trust tbody tr").count() == 3
        assert page.locator(".trust tbody tr").last.inner_text().split("\t")[1:] == ["the decision did not change"] * 2
        assert "One picture proves no map right" in page.locator(".trust").first.inner_text()
        assert seen_by_axe(page) == []
        page.locator(".remove").first.click()
        ready(page)
        assert page.locator(".card").count() == 1
        # by keyboard: a scene, then a model of its own kind
        page.locator("#pictures [aria-checked=true]").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        ready(page)
        assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "scene 0"
        page.get_by_text("Highest score:").wait_for()
        ready(page)
        assert chosen(page, 0, "Model").input_value() == "scene-vgg"
        # those on which the model is wrong, and the chosen one
        page.get_by_label("Show", exact=True).select_option("wrong")
        ready(page)
        wrong = page.locator("#pictures button").count()
        page.get_by_label("Show", exact=True).select_option("right")
        ready(page)
        assert page.locator("#pictures button").count() + wrong == 12 + 1  # without the two photographs
        page.get_by_label("Show", exact=True).select_option("")
        ready(page)
        assert page.locator("#pictures button").count() == 14
        page.locator("#pictures [aria-checked=true]").focus()
        page.keyboard.press("Tab")
        before = shown(page)
        page.keyboard.press("Home")
        assert page.input_value("#opacity") == "0"
        assert shown(page) != before
        chosen(page, 0, "Method").focus()
        page.keyboard.press("ArrowDown")
        ready(page)
        assert page.evaluate("() => document.activeElement.labels[0].textContent").startswith("Method")
        # on a phone: nothing beside the screen, the map above its choices and these above the pictures
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("() => document.documentElement.scrollWidth") == 390
        tops = [page.locator(place).first.bounding_box()["y"] for place in ("canvas", ".choices", "#beside")]
        assert tops == sorted(tops)
        assert tops[0] < 200
        assert seen_by_axe(page) == []
