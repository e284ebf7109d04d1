"""The server of Captum Insights: wrong arguments, wrong requests, and its page in a real browser."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import torch

from captum_extract_aggregate import insights
from tests.browser import open_page
from tests.conftest import REAL_DATA, needs_real_data
from tests.insights.given import needs_insights


@needs_insights
@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"mean": (0.5, 0.5)}, ValueError, "mean is .*; expected one number, or one for each of 3 channels"),
        ({"std": 0}, ValueError, "std is 0; expected numbers above 0"),
        ({"port": 70000}, ValueError, "port is 70000"),
        ({"hosts": "hub.example.org"}, TypeError, "hosts is 'hub.example.org'; expected a list"),
        ({"seconds": 0}, ValueError, "seconds is 0; expected a number above 0"),
        ({"model": "resnet"}, TypeError, "model is a str"),
        ({"model": torch.nn.Linear(1, 1).train()}, ValueError, "model is in train mode"),
    ],
)
def test_wrong_arguments(arguments, error, said, model):
    with pytest.raises(error, match=said):
        insights.serve(arguments.pop("model", model), ["a"] * 10, [torch.zeros(3, 96, 96)], **arguments)


@needs_insights
def test_a_port_that_is_taken(model):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} is taken"):
            insights.serve(model, ["a"] * 10, [torch.zeros(3, 96, 96)], port=port)


@needs_insights
def test_an_unknown_method(model):
    with pytest.raises(ValueError, match="did you mean 'normgrad'"):
        insights.serve(model, ["a"] * 10, [torch.zeros(3, 96, 96)], method="normgrat")


@contextlib.contextmanager
def running(*arguments):
    """The address of the command's page."""
    command = [sys.executable, "-m", "captum_extract_aggregate", "insights", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    late = threading.Timer(120, process.kill)
    late.start()
    try:
        said = iter(process.stdout.readline, "")
        address = next((line for line in said if "http://localhost:" in line), None)
        assert address is not None, "the server did not start"
        late.cancel()
        yield re.sub(r".*http://localhost:(\d+)/.*\n", r"http://127.0.0.1:\1/", address)
        process.send_signal(signal.SIGINT)  # as Ctrl-C
        process.wait(timeout=20)
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def served(request):
    """The command's page, as a user opens it."""
    with running(*getattr(request, "param", [])) as address:
        yield address


@pytest.fixture(scope="module")
def asked():
    """Asks one server: the status, and the body (of JSON)."""
    with running() as address:
        port = int(address.rstrip("/").rpartition(":")[2])

        def ask(path, content=None, method=None, timeout=60, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
            headers = {"Host": f"localhost:{port}", **{name.replace("_", "-"): v for name, v in headers.items()}}
            body = None
            if content is not None:
                headers = {"Content-Type": "application/json", **headers}
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            return answer, json.loads(text) if "json" in (answer.getheader("Content-Type") or "") else text

        ask.port = port
        yield ask


FETCH = {"attribution_method": "gradcam", "arguments": {"layer": "layer4"}, "prediction": "all", "classes": []}


@needs_insights
class TestServer:
    def test_it_answers_its_own_page(self, asked):
        answer, config = asked("/init")
        assert answer.status == 200
        assert "normgrad" in config["methods"]
        assert asked("/init", Host=f"127.0.0.1:{asked.port}")[0].status == 200
        answer, outputs = asked("/fetch", FETCH, Origin=f"http://localhost:{asked.port}")
        assert (answer.status, len(outputs)) == (200, 4)
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("Access-Control-Allow-Origin") is None

    @pytest.mark.parametrize("path", ["/", "/init", "/fetch", "/attribute", "/static/css/main.fac91593.chunk.css"])
    def test_other_names_and_pages_get_nothing(self, path, asked):
        content = FETCH if path in ("/fetch", "/attribute") else None
        for headers in (
            {"Host": "evil.example"},
            {"Host": f"evil.example:{asked.port}"},
            {"Origin": "http://evil.example"},
        ):
            answer, said = asked(path, content, **headers)
            assert answer.status == 403
            assert set(said) == {"error"}

    def test_a_page_cannot_start_work(self, asked):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"):
            assert asked("/fetch", FETCH, Content_Type=kind)[0].status == 415
        assert asked("/fetch", method="OPTIONS", Origin="http://evil.example")[0].status == 403

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"attribution_method": "Feature Ablation", "arguments": {"patches": 1_000_000}}, "from 1 to 32"),
            ({"attribution_method": "Feature Ablation", "arguments": {"patches": 10**400}}, "from 1 to 32"),
            ({"attribution_method": "Feature Ablation", "arguments": {"patches": 0}}, "from 1 to 32"),
            ({"attribution_method": "Feature Ablation", "arguments": {"patches": True}}, "patches is True"),
            ({"attribution_method": "Feature Ablation", "arguments": {"patches": 8.5}}, "patches is 8.5"),
            ({"attribution_method": "Feature Ablation", "arguments": {"patches": "8"}}, "patches is '8'"),
            ({"attribution_method": "Feature Ablation", "arguments": {"patches": None}}, "patches is None"),
            ({"attribution_method": "Feature Ablation", "arguments": {"patches": [8]}}, "patches is a list"),
            ({"attribution_method": "Integrated Gradients", "arguments": {"n_steps": 101}}, "from 2 to 100"),
            ({"attribution_method": "Integrated Gradients", "arguments": {"method": "a"}}, "method is 'a'"),
            ({"attribution_method": "captum:LayerConductance", "arguments": {"n_steps": -1}}, "from 1 to 100"),
            ({"attribution_method": "rectgrad", "arguments": {"percentile": 1e9}}, "percentile is 1000000000.0"),
            ({"attribution_method": "lrp", "arguments": {"gamma": "nan"}}, "gamma is 'nan'; expected one of '0'"),
            ({"attribution_method": "lrp", "arguments": {"gamma": 0}}, "gamma is 0"),
            ({"arguments": {"layer": "layer4\0"}}, "layer is 'layer4\\x00'"),
            ({"arguments": {"layer": "a" * 100_000}}, "layer is 'aaa"),
            ({"arguments": {"layer": {}}}, "layer is a dict"),
            ({"attribution_method": "Occlusion", "arguments": {"strides": "1\0"}}, "printable"),
            ({"attribution_method": "Occlusion", "arguments": {"baselines": 1}}, "'baselines', which is unknown"),
            ({"arguments": {"__class__": "a"}}, "'__class__', which is unknown"),
            ({"arguments": []}, "arguments is a list"),
            ({"attribution_method": "gradcamm"}, "did you mean 'gradcam'"),
            ({"attribution_method": ["gradcam"]}, "attribution_method"),
            ({"prediction": "some"}, "prediction is 'some'"),
            ({"prediction": ["all"]}, "prediction is a list"),
            ({"classes": "0"}, "classes is '0'"),
            ({"classes": ["nobody"]}, "expected a list of the model's classes"),
            ({"classes": [["0"]]}, "expected a list of the model's classes"),
            ({"classes": ["0"] * 100_000}, "expected a list of the model's classes"),
            ({"num_examples": 10**9}, "num_examples'; expected arguments, attribution_method"),
        ],
    )
    def test_what_the_page_does_not_offer_is_refused(self, change, said, asked):
        answer, body = asked("/fetch", FETCH | change, timeout=20)
        assert answer.status == 400
        assert said in body["error"]
        assert len(body["error"]) < 1500

    def test_what_is_no_request_is_refused(self, asked):
        for content in ({}, {"attribution_method": "gradcam"}, b"[]", b"", b"\0", b"{" * 100_000, b'{"a": NaN}'):
            assert asked("/fetch", content)[0].status == 400
        assert asked("/fetch", b" " * (1 << 21))[0].status == 413
        assert asked("/fetch")[0].status == 405
        assert asked("/nothing")[0].status == 404

    @pytest.mark.parametrize(
        "change",
        [{"inputIndex": 4}, {"inputIndex": -1}, {"inputIndex": "0"}, {"modelIndex": 1}, {"labelIndex": 10}]
        + [{"labelIndex": None}, {"labelIndex": 1.5}, {"labelIndex": True}],
    )
    def test_a_class_that_is_not_there(self, change, asked):
        asked("/fetch", FETCH)
        request = {"inputIndex": 0, "modelIndex": 0, "labelIndex": 3}
        assert asked("/attribute", request)[0].status == 200
        answer, body = asked("/attribute", request | change)
        assert answer.status == 400
        assert next(iter(change)) in body["error"]
        assert asked("/attribute", {"inputIndex": 0})[0].status == 400

    @pytest.mark.parametrize(
        "path",
        ["/static/../../../server.py", "/static/%2e%2e/%2e%2e/server.py", "/../server.py"],
    )
    def test_no_other_files(self, path, asked):
        answer, body = asked(path)
        assert answer.status == 404
        assert set(body) == {"error"}

    def test_the_page_is_there_while_a_request_is_worked_on(self, asked):
        slow = FETCH | {"attribution_method": "Feature Ablation", "arguments": {"patches": 10}}
        thread = threading.Thread(target=lambda: asked("/fetch", slow, timeout=120))
        thread.start()
        for path in ("/", "/init"):
            assert asked(path, timeout=10)[0].status == 200
        with socket.create_connection(("127.0.0.1", asked.port)) as silent:
            silent.sendall(b"POST /fetch HTTP/1.1\r\nContent-Length: 9")  # and never more
            assert asked("/init", timeout=10)[0].status == 200
        thread.join()


def fetched(page):
    """The maps' pictures after a fetch."""
    with page.expect_response("**/fetch", timeout=120_000) as answer:
        page.get_by_role("button", name="Fetch").click()
    assert answer.value.status == 200
    page.wait_for_timeout(300)
    return [image.get_attribute("src") for image in page.query_selector_all("img")]


@needs_insights
def test_in_a_browser(served):
    with open_page(served) as page:
        page.wait_for_selector("select[name=layer]")
        page.select_option("select[name=layer]", "layer3")  # at the last, linear approximation is GradCAM
        first = fetched(page)
        assert len(first) == 8  # four images, and a map for each
        page.select_option("select[name=layer]", "layer2")
        second = fetched(page)
        page.select_option("select[name=selected_method]", "lrp")
        page.select_option("select[name=gamma]", "0.25")
        third = fetched(page)
        page.select_option("select[name=selected_method]", "captum:LayerGradCam")
        fourth = fetched(page)
        maps = [pictures[1::2] for pictures in (first, second, third, fourth)]
        assert all(len(own) == 4 for own in maps)
        assert len({own[0] for own in maps}) == 4
        with page.expect_response("**/attribute", timeout=60_000) as answer:  # another class of the first image
            page.get_by_text(re.compile(r"^\d \(-?\d+\.\d+\)$")).nth(1).click()
        assert answer.value.status == 200


@needs_insights
def test_in_a_browser_what_fails_is_said_in_the_map_s_place(served):
    with open_page(served) as page:
        page.wait_for_selector("select[name=layer]")
        page.select_option("select[name=layer]", "fc")  # has no positions
        failed = fetched(page)
        assert len(failed) == 8
        page.select_option("select[name=selected_method]", "gradient")
        assert fetched(page)[1] not in failed  # and goes on


@needs_insights
def test_in_a_browser_what_is_refused_is_said(served):
    with open_page(served, expected="status of 400|NaN") as page:
        page.wait_for_selector("select[name=selected_method]")
        page.select_option("select[name=selected_method]", "rectgrad")
        page.fill("input[name=percentile]", "")
        page.get_by_role("button", name="Fetch").click()
        page.get_by_text("percentile is None; expected a whole number from 1 to 100").wait_for()
        page.fill("input[name=percentile]", "90")
        assert len(fetched(page)) == 8
        assert page.inner_text("#refused") == ""


@needs_insights
@needs_real_data
@pytest.mark.parametrize(
    "served",
    [
        [
            str(REAL_DATA / "photos" / "cat_dog.png"),
            *("--model", "squeezenet1_1", "--method", "linear-approximation"),
            *("--weights", str(REAL_DATA / "models" / "squeezenet1_1-imagenet.pth")),
        ]
    ],
    indirect=True,
)
def test_in_a_browser_a_photograph(served):
    with open_page(served) as page:
        page.wait_for_selector("select[name=layer]")
        assert len(fetched(page)) >= 2
        assert page.get_by_text(re.compile("bull ?mastiff|boxer|tabby|tiger cat", re.IGNORECASE)).count() > 0
