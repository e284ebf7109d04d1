"""Captum Insights: every method through its own machinery, and the page in a real browser."""

import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import captum
import pytest
import torch
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate import insights
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.insights import input_maps, methods, offered
from tests.browser import open_page
from tests.conftest import REAL_DATA, needs_real_data

HAS_INSIGHTS = importlib.util.find_spec("captum.insights") is not None and importlib.util.find_spec("flask") is not None
needs_insights = pytest.mark.skipif(not HAS_INSIGHTS, reason="needs captum[insights]==0.8.0")


@pytest.mark.skipif(HAS_INSIGHTS, reason="Captum Insights is installed")
def test_where_there_is_no_insights_one_sentence_says_how_to_get_it():
    with pytest.raises(ImportError, match=re.escape(methods.INSTALL)):
        insights.register()
    result = CliRunner().invoke(app, ["insights"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert methods.INSTALL in result.stderr
    assert captum.__version__ in result.stderr
    assert "explain --html" in result.stderr


@pytest.fixture(scope="module")
def model():
    return cea.load_scene_model("resnet")


@pytest.fixture(scope="module")
def x():
    return cea.DigitScenes(1)[0][0][None]


@needs_insights
class TestRegistered:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def config(cls, model, x):
        from captum.insights.attr_vis import config

        insights.register(model, x)
        return config

    def calculate(self, model, x, name, arguments):
        from captum.insights.attr_vis.attribution_calculation import AttributionCalculation

        calculation = AttributionCalculation([model], [str(i) for i in range(10)], [])
        baselines = [(torch.zeros_like(x),)]
        (found,) = calculation.calculate_attribution(baselines, (x,), None, torch.tensor(5), name, arguments, model)
        return found

    @pytest.mark.parametrize("name", offered.names())
    def test_every_method_gives_what_the_page_can_draw(self, name, model, x, config):
        params = config.ATTRIBUTION_METHOD_CONFIG[name].params
        arguments = {key: value.value for key, value in params.items()}
        if name.startswith("captum:") and "n_steps" in arguments:
            arguments["n_steps"] = 2
        before = {key: t.clone() for key, t in model.state_dict().items()}
        with torch.no_grad():
            found = self.calculate(model, x, name, arguments)
        assert found.shape == x.shape
        assert bool(found.isfinite().all())
        assert float(found.abs().max()) == pytest.approx(1, abs=1e-4) or found.count_nonzero() == 3
        assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())

    @pytest.mark.parametrize("name", offered.names())
    def test_every_choice_of_every_argument_is_taken(self, name, model, x, config):
        params = config.ATTRIBUTION_METHOD_CONFIG[name].params
        for key, value in params.items():
            if key == "layer":
                continue
            for choice in value.limit if value.type == "enum" else [value.limit[0], 50]:
                arguments = {k: v.value for k, v in params.items()} | {key: choice}
                if choice in ("layer", "no"):  # of a real layer, not of a block
                    arguments["layer"] = "layer4.conv2"
                if name.startswith("captum:"):
                    arguments = {**arguments, "n_steps": min(choice, 3)}
                assert self.calculate(model, x, name, arguments).shape == x.shape

    def test_layers_by_name(self, model, x, config):
        shown = config.ATTRIBUTION_METHOD_CONFIG["normgrad"].params["layer"]
        assert shown.limit[:5] == ["layer1", "layer2", "layer3", "layer4", offered.INPUT]
        assert "layer4.conv2" in shown.limit
        assert len(set(shown.limit)) == len(shown.limit)
        assert shown.value == "layer3"  # behind layer4 positions are averaged, and nothing of the class is left
        assert config.ATTRIBUTION_METHOD_CONFIG["gradcam"].params["layer"].value == "layer4"
        for layer in (*shown.limit[:4], "layer2.conv1"):
            wanted = cea.NormGrad(model, layer).attribute(x, target=5)
            found = self.calculate(model, x, "normgrad", {"layer": layer, "virtual_identity": "yes"})
            torch.testing.assert_close(found, input_maps.like_input(wanted, x))

    def test_without_a_model_the_layer_is_typed_in(self, model, x, config):
        insights.register()
        assert config.ATTRIBUTION_METHOD_CONFIG["normgrad"].params["layer"].type == "string"
        wanted = input_maps.like_input(cea.LinearApproximation(model, "layer4").attribute(x, target=5), x)
        torch.testing.assert_close(self.calculate(model, x, "linear-approximation", {"layer": ""}), wanted)
        wanted = input_maps.like_input(cea.NormGrad(model, "layer3").attribute(x, target=5), x)
        found = self.calculate(model, x, "normgrad", {"layer": "", "virtual_identity": "yes"})
        torch.testing.assert_close(found, wanted)
        insights.register(model, x)

    def test_captums_own_methods_stay(self, config):
        assert "Integrated Gradients" in config.ATTRIBUTION_NAMES_TO_METHODS


def test_maps_that_the_page_would_wait_for():
    x = torch.rand(2, 3, 4, 4)
    for map_ in (torch.zeros(2, 1, 2, 2), torch.full((2, 3, 4, 4), torch.nan), torch.full((2, 1, 1, 1), 1e-38)):
        found = input_maps.like_input(map_, x)
        assert found.shape == x.shape
        assert found.count_nonzero() == 6
    mixed = torch.stack([torch.zeros(1, 2, 2), torch.tensor([[[1.0, -4.0], [0.0, torch.inf]]])])
    found = input_maps.like_input(mixed, x)
    assert found[0].count_nonzero() == 3
    assert found[1].abs().max() == 1
    with pytest.raises(ValueError, match="cannot be drawn on an input"):
        input_maps.like_input(torch.zeros(2, 1, 5), torch.zeros(2, 3, 9))


@needs_insights
@pytest.mark.parametrize(
    ("classes", "dataset", "error", "said"),
    [
        (["a"] * 10, [], ValueError, "dataset gives no image"),
        (["a"] * 10, ["picture"], TypeError, "dataset gives a str as image 0"),
        (["a"] * 9, [torch.zeros(3, 96, 96)], ValueError, "classes has 9 names"),
        (["a"] * 10, [(torch.zeros(3, 96, 96), 10)], ValueError, "dataset gives the label 10"),
        (["a"] * 10, [(torch.zeros(3, 96, 96), "cat")], TypeError, "dataset gives the label 'cat'"),
        (["a"] * 10, [(torch.zeros(3, 96, 96), 1, 2)], TypeError, r"expected .* or a pair \(image, label\)"),
        (["a"] * 10, [torch.zeros(3, 96, 96, dtype=torch.uint8)], TypeError, "dataset gives a torch.uint8"),
        (["a"] * 10, [torch.zeros(4, 96, 96)], TypeError, "of one or three channels"),
        (["a"] * 10, [torch.full((3, 96, 96), torch.nan)], ValueError, "scores for image 0 are not finite"),
        (10, [torch.zeros(3, 96, 96)], TypeError, "classes is a int"),
    ],
)
def test_wrong_uses(classes, dataset, error, said, model):
    with pytest.raises(error, match=said):
        insights.serve(model, classes, dataset)


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
def test_a_model_without_stages_and_one_of_any_forward():
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    insights.register(flat, torch.zeros(1, 3, 2, 2))
    from captum.insights.attr_vis.config import ATTRIBUTION_METHOD_CONFIG

    assert ATTRIBUTION_METHOD_CONFIG["normgrad"].params["layer"].value == "the input"
    with pytest.raises(TypeError, match="model is a function"):
        insights.register(lambda x: x)


@needs_insights
def test_labels(model):
    from captum_extract_aggregate.insights.visualizer import batches_of

    class Endless(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return torch.zeros(3, 96, 96), torch.tensor(index)

    classes = [str(i) for i in range(10)]
    assert [int(batch.labels) for batch in batches_of(model, classes, Endless())] == [0, 1]
    scenes = cea.DigitScenes(4, seed=5)
    found = batches_of(model, classes, scenes)
    assert all(int(batch.labels) in target["labels"].tolist() for batch, (_, target) in zip(found, scenes))


@needs_insights
def test_captums_feature_ablation_goes_by_patches(model, x):
    insights.register(model, x)
    from captum.insights.attr_vis.config import ATTRIBUTION_NAMES_TO_METHODS

    forwards = []
    handle = model.register_forward_hook(lambda *_: forwards.append(1))
    method = ATTRIBUTION_NAMES_TO_METHODS["Feature Ablation"](model)
    (found,) = method.attribute.__wrapped__(method, (x,), patches=4, baselines=(torch.zeros_like(x),), target=3)
    handle.remove()
    assert len(forwards) == 17
    assert found.shape == x.shape
    assert len(found[0, 0].unique()) <= 16
    with torch.no_grad():
        without = x.clone()
        without[..., :24, :24] = 0
        assert float(found[0, 0, 0, 0]) == pytest.approx(float((model(x) - model(without))[0, 3]), abs=1e-4)


class Two(torch.nn.Module):
    """An image, and a second input of one kind or another; `a` and `b` see one of them each, `both` the two."""

    def __init__(self, kind, second_first=False):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.second_first = kind, second_first
        self.a = torch.nn.Sequential(
            *(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
            *(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU()),
        )
        self.b = {
            "vector": lambda: torch.nn.Linear(5, 8),
            "image": lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU()),
            "tokens": lambda: torch.nn.Embedding(20, 8),
        }[kind]()
        self.both = torch.nn.Conv2d(8, 8, 1)
        self.fc = torch.nn.Linear(8, 6)
        self.eval()

    def forward(self, x, y, factor=1.0):
        x, y = (y, x) if self.second_first else (x, y)
        y = self.b(y)
        if self.kind == "image":
            y = y.mean((2, 3))
        if self.kind == "tokens":
            y = y.mean(1)
        return self.fc(self.both(self.a(x) + y[..., None, None]).relu().mean((2, 3))) * factor

    def inputs(self):
        second = {
            "vector": torch.rand(1, 5),
            "image": torch.rand(1, 3, 10, 14),
            "tokens": torch.tensor([[3, 7, 7, 1, 0, 2]]),
        }[self.kind]
        x = torch.rand(1, 3, 16, 16)
        return (second, x) if self.second_first else (x, second)


def of_insights(model, inputs, name, extra=None, **arguments):
    """The attributions as Insights has them made."""
    from captum.insights.attr_vis.attribution_calculation import AttributionCalculation

    calculation = AttributionCalculation([model], list("abcdef"), [])
    baselines = [tuple(torch.zeros_like(x) for x in inputs)]
    with torch.no_grad():
        return calculation.calculate_attribution(baselines, inputs, extra, torch.tensor(2), name, arguments, model)


@needs_insights
class TestSeveralInputs:
    @pytest.mark.parametrize(
        ("kind", "second_first"), [("vector", False), ("vector", True), ("image", False), ("tokens", True)]
    )
    def test_every_method_gives_each_input_its_own(self, kind, second_first):
        from captum.insights.attr_vis.config import ATTRIBUTION_METHOD_CONFIG

        model = Two(kind, second_first)
        inputs = model.inputs()
        insights.register(model, inputs)
        for name in ["Feature Ablation", *offered.names()]:
            arguments = {key: field.value for key, field in ATTRIBUTION_METHOD_CONFIG[name].params.items()}
            layers = {"layer": "both"} if "layer" in arguments else {}
            for chosen in [layers, *([{"layer": offered.INPUT}] if layers and name != "bias" else [])]:
                if chosen.get("layer") == offered.INPUT and name.startswith("captum:"):
                    with pytest.raises(ValueError, match=r"layer is 'the input'.*expected a layer of the model"):
                        of_insights(model, inputs, name, **arguments | chosen)
                    continue
                found = of_insights(model, inputs, name, **arguments | chosen)
                assert [f.shape for f in found] == [x.shape for x in inputs], (name, chosen)
                assert all(bool(f.isfinite().all()) for f in found)
                assert max(float(f.abs().max()) for f in found) <= 1.0001
                assert all(f.count_nonzero() > 0 for f, x in zip(found, inputs) if x.ndim == 4)

    @pytest.mark.parametrize(("name", "method"), [("lrp", cea.LRP), ("guided", cea.GuidedBackprop)])
    def test_at_the_input_each_gets_what_arrives_there(self, name, method):
        for kind in ("vector", "image"):
            model = Two(kind)
            inputs = model.inputs()
            wanted = method(model).attribute(inputs, target=2)
            largest = max(float(w.abs().max()) for w in wanted)
            for found, own in zip(of_insights(model, inputs, name, layer=offered.INPUT), wanted):
                torch.testing.assert_close(found, own / largest)

    def test_at_the_input_of_one_image(self):
        model = Two("vector").a
        x = torch.rand(1, 3, 8, 8)
        (found,) = of_insights(lambda x: model(x).mean((2, 3)), (x,), "lrp", layer=offered.INPUT)
        wanted = cea.LRP(lambda x: model(x).mean((2, 3))).attribute(x, target=2)
        torch.testing.assert_close(found, input_maps.like_input(wanted, x))

    def test_a_layer_s_map_goes_to_the_images_it_depends_on(self):
        model = Two("image")
        x, y = model.inputs()
        for layer, sees_x, sees_y in (("a", True, False), ("b", False, True), ("both", True, True)):
            found = of_insights(model, (x, y), "normgrad", layer=layer, virtual_identity="yes")
            assert [f.count_nonzero() > 3 for f in found] == [sees_x, sees_y], layer
        map_a = cea.NormGrad(model, "a").attribute((x, y), target=2)
        found, nothing = of_insights(model, (x, y), "normgrad", layer="a")
        torch.testing.assert_close(found, input_maps.like_input(map_a, x))
        assert nothing.count_nonzero() == 3  # the pixel of a map of zeros
        nothing, found = of_insights(model, (x, y), "normgrad", layer="b")
        assert found.shape == y.shape
        of_y = cea.NormGrad(lambda second: model(x, second), model.b).attribute(y, target=2)
        torch.testing.assert_close(found, input_maps.like_input(of_y, y))

    @pytest.mark.parametrize("kind", ["vector", "tokens"])
    def test_ablation_takes_other_inputs_value_by_value(self, kind):
        from captum.attr import FeatureAblation

        model = Two(kind)
        x, y = model.inputs()
        of_x, of_y = of_insights(model, (x, y), "Feature Ablation", patches=2)
        assert len(of_x[0, 0].unique()) == 4
        wanted = FeatureAblation(lambda second: model(x, second)).attribute(y, target=2)
        torch.testing.assert_close(of_y, wanted)

    def test_ablation_without_an_image(self):
        from captum.attr import FeatureAblation

        y = torch.rand(1, 5)
        model = torch.nn.Linear(5, 6)
        (found,) = of_insights(model, (y,), "Feature Ablation", patches=8)
        torch.testing.assert_close(found, FeatureAblation(model).attribute(y, target=2))

    def test_arguments_of_the_model_come_last(self):
        model = Two("vector", second_first=True)
        inputs = model.inputs()
        one, two = (of_insights(model, inputs, "lrp", extra, layer="both") for extra in (None, (torch.tensor([2.0]),)))
        torch.testing.assert_close(one, two)  # scaled alike
        three = of_insights(model, inputs, "captum:LayerGradCam", (torch.tensor([-1.0]),), layer="both")
        torch.testing.assert_close(three[1], -of_insights(model, inputs, "captum:LayerGradCam", layer="both")[1])

    def test_what_nobody_offers_is_refused_without_a_server_too(self, model, x):
        insights.register(model, x)
        for name, arguments, said in (
            ("Feature Ablation", {"patches": 1_000_000}, "patches is 1000000; expected a whole number from 1 to 32"),
            ("rectgrad", {"percentile": 101}, "percentile is 101; expected a whole number from 1 to 100"),
            ("lrp", {"gamma": "nan"}, "gamma is 'nan'; expected one of '0'"),
            ("normgrad", {"virtual": "no"}, "'virtual', which is unknown"),
        ):
            with pytest.raises(ValueError, match=re.escape(said)):
                of_insights(model, (x,), name, **arguments)


@needs_insights
def test_requests_that_overlap_keep_their_own_method(model, x):
    from captum_extract_aggregate.insights.visualizer import Visualizer, batches_of

    insights.register(model, x)
    names = [str(i) for i in range(10)]
    visualizer = Visualizer(model, names, batches_of(model, names, [x[0]]), lambda image: image.clamp(0, 1), "gradcam")
    drawn = {}

    def request(method):
        visualizer._update_config({"attribution_method": method, "arguments": {}, "prediction": "all", "classes": []})
        together.wait()  # all have said what they want before the first is served
        (output,) = visualizer.visualize()
        drawn[method] = output[0].feature_outputs[0].modified

    together = threading.Barrier(3)
    threads = [threading.Thread(target=request, args=(m,)) for m in ("gradcam", "normgrad", "linear-approximation")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for method in drawn:
        visualizer._update_config({"attribution_method": method, "arguments": {}, "prediction": "all", "classes": []})
        assert visualizer.visualize()[0][0].feature_outputs[0].modified == drawn[method]
    assert len(set(drawn.values())) == 3


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


class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3)
        self.eval()

    def forward(self, x):
        time.sleep(0.02)
        return self.conv(x).mean((2, 3))


@needs_insights
class TestTime:
    def visualizer(self, seconds):
        from captum_extract_aggregate.insights.visualizer import Visualizer, batches_of

        model = Slow()
        insights.register(model, torch.zeros(1, 3, 8, 8))
        batches = batches_of(model, ["a", "b"], [torch.rand(3, 8, 8)])
        return Visualizer(model, ["a", "b"], batches, lambda image: image, "normgrad", seconds)

    def fetch(self, visualizer, method="gradcam", **arguments):
        settings = {"attribution_method": method, "arguments": arguments, "prediction": "all", "classes": []}
        visualizer._update_config(settings)
        return visualizer.visualize()

    def test_a_request_ends(self):
        visualizer = self.visualizer(seconds=0.3)
        begun = time.monotonic()
        (slow,) = self.fetch(visualizer, "Feature Ablation", patches=32)  # 1,000 passes
        assert time.monotonic() - begun < 5
        (quick,) = self.fetch(visualizer)
        assert slow[0].feature_outputs[0].modified != quick[0].feature_outputs[0].modified
        assert not visualizer.models[0]._forward_pre_hooks

    def test_the_next_one_does_not_wait_for_ever(self):
        from captum_extract_aggregate.insights.requests import RefusedError

        visualizer = self.visualizer(seconds=0.2)
        with visualizer._lock, pytest.raises(RefusedError, match=r"at most 0.2 seconds each\); try again"):
            self.fetch(visualizer)
        assert len(self.fetch(visualizer)) == 1

    def test_few_wait(self):
        from captum_extract_aggregate.insights.requests import RefusedError

        visualizer = self.visualizer(seconds=60)
        for _ in range(8):
            visualizer._queue.acquire()
        with pytest.raises(RefusedError, match="try again"):
            self.fetch(visualizer)

    def test_other_threads_are_not_stopped(self):
        visualizer = self.visualizer(seconds=1e-6)
        with visualizer._turn():
            elsewhere = threading.Thread(target=lambda: found.append(visualizer.models[0](torch.rand(1, 3, 8, 8))))
            found = []
            elsewhere.start()
            elsewhere.join()
            assert len(found) == 1
            with pytest.raises(TimeoutError):
                visualizer.models[0](torch.rand(1, 3, 8, 8))


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


@needs_insights
def test_a_model_of_two_images(model, x):
    """Fetching goes round the images, once each."""
    from captum_extract_aggregate.insights.visualizer import Visualizer, batches_of

    insights.register(model, x)
    batches = batches_of(model, [str(i) for i in range(10)], [x[0], (x[0], 3)])
    visualizer = Visualizer(model, [str(i) for i in range(10)], batches, lambda image: image.clamp(0, 1), "gradcam")
    assert len(visualizer.visualize()) == 2
    visualizer._update_config(
        {"attribution_method": "gradcam", "arguments": {}, "prediction": "incorrect", "classes": []}
    )
    (only,) = visualizer.visualize()  # the page's filter
    assert only[0].actual.label == "3"
    visualizer._update_config({"attribution_method": "gradcam", "arguments": {}, "prediction": "all", "classes": ["9"]})
    assert visualizer.visualize() == []  # where Captum's looks for ever
