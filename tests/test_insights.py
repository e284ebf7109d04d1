"""Captum Insights: every method through its own machinery, and the page in a real browser."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import captum
import pytest
import torch
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate import insights
from captum_extract_aggregate.cli import app
from tests.browser import open_page
from tests.conftest import REAL_DATA, needs_real_data

HAS_INSIGHTS = importlib.util.find_spec("captum.insights") is not None and importlib.util.find_spec("flask") is not None
needs_insights = pytest.mark.skipif(not HAS_INSIGHTS, reason="needs captum[insights]==0.8.0")


@pytest.mark.skipif(HAS_INSIGHTS, reason="Captum Insights is installed")
def test_where_there_is_no_insights_one_sentence_says_how_to_get_it():
    with pytest.raises(ImportError, match=re.escape(insights.INSTALL)):
        insights.register()
    result = CliRunner().invoke(app, ["insights"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert insights.INSTALL in result.stderr
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

    @pytest.mark.parametrize("name", insights.names())
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

    @pytest.mark.parametrize("name", insights.names())
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
        assert shown.limit[:5] == ["layer1", "layer2", "layer3", "layer4", insights.INPUT]
        assert "layer4.conv2" in shown.limit
        assert len(set(shown.limit)) == len(shown.limit)
        assert shown.value == "layer3"  # behind layer4 positions are averaged, and nothing of the class is left
        assert config.ATTRIBUTION_METHOD_CONFIG["gradcam"].params["layer"].value == "layer4"
        for layer in (*shown.limit[:4], "layer2.conv1"):
            wanted = cea.NormGrad(model, layer).attribute(x, target=5)
            found = self.calculate(model, x, "normgrad", {"layer": layer, "virtual_identity": "yes"})
            torch.testing.assert_close(found, insights.like_input(wanted, x))

    def test_without_a_model_the_layer_is_typed_in(self, model, x, config):
        insights.register()
        assert config.ATTRIBUTION_METHOD_CONFIG["normgrad"].params["layer"].type == "string"
        wanted = insights.like_input(cea.LinearApproximation(model, "layer4").attribute(x, target=5), x)
        torch.testing.assert_close(self.calculate(model, x, "linear-approximation", {"layer": ""}), wanted)
        wanted = insights.like_input(cea.NormGrad(model, "layer3").attribute(x, target=5), x)
        found = self.calculate(model, x, "normgrad", {"layer": "", "virtual_identity": "yes"})
        torch.testing.assert_close(found, wanted)
        insights.register(model, x)

    def test_captums_own_methods_stay(self, config):
        assert "Integrated Gradients" in config.ATTRIBUTION_NAMES_TO_METHODS


def test_maps_that_the_page_would_wait_for():
    x = torch.rand(2, 3, 4, 4)
    for map_ in (torch.zeros(2, 1, 2, 2), torch.full((2, 3, 4, 4), torch.nan), torch.full((2, 1, 1, 1), 1e-38)):
        found = insights.like_input(map_, x)
        assert found.shape == x.shape
        assert found.count_nonzero() == 6
    mixed = torch.stack([torch.zeros(1, 2, 2), torch.tensor([[[1.0, -4.0], [0.0, torch.inf]]])])
    found = insights.like_input(mixed, x)
    assert found[0].count_nonzero() == 3
    assert found[1].abs().max() == 1
    with pytest.raises(ValueError, match="cannot be drawn on an input"):
        insights.like_input(torch.zeros(2, 1, 5), torch.zeros(2, 3, 9))


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
    from captum_extract_aggregate.insights_page import batches_of

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


@needs_insights
def test_requests_that_overlap_keep_their_own_method(model, x):
    from captum_extract_aggregate.insights_page import Visualizer, batches_of

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


@pytest.fixture
def served(request):
    """The command's page, as a user opens it."""
    arguments = [sys.executable, "-m", "captum_extract_aggregate", "insights", *getattr(request, "param", [])]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
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
    from captum_extract_aggregate.insights_page import Visualizer, batches_of

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
