"""Methods made ready: one pass serves what can share it, and nothing piles up from image to image."""

import gc
import itertools

import captum.attr
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.evaluation import plan_from, run
from captum_extract_aggregate.evaluation.methods import levelled
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.store import Writer
from captum_extract_aggregate.metrics import spearman
from tests.evaluation.plans import HERE, TinyNet, content
from tests.evaluation.wrong_plans import check_refused, combine, methods

MODEL = {"name": "tests.evaluation.plans:tiny_net"}  # by module, so that its class is the one counted here


DATA = {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs", "arguments": {"count": 12}}


SHARING = [
    {"method": "normgrad", "combine": [{}, {"mode": "sum"}]},
    {"method": "linear-approximation"},
    {"method": "gradcam"},
    {"method": "gradient", "layers": ["conv2"]},
    {"method": "cumulative-gradmid"},
]


def plan(methods, **changes):
    measures = [{"measure": "pointing_game", "arguments": {"tolerance": 3}}, {"measure": "class_sensitivity"}]
    return plan_from(
        content(
            methods=methods,
            measures=measures,
            layers=["conv1", "conv2"],
            data=DATA,
            model={"name": "tests.evaluation.plans:tiny_net"},
        )
        | changes
    )


def forwards(methods, folder, monkeypatch):
    """How often the network runs in a batch, beyond what is looked at before work starts."""
    calls, at_batch, original = [], [], TinyNet.forward
    monkeypatch.setattr(TinyNet, "forward", lambda self, x: (calls.append(len(x)), original(self, x))[1])
    add = Writer.add
    monkeypatch.setattr(Writer, "add", lambda self, *args: (at_batch.append(len(calls)), add(self, *args))[1])
    run(plan(methods), folder, show_progress=False)
    monkeypatch.undo()
    return {b - a for a, b in itertools.pairwise(at_batch)}


def test_methods_layers_and_targets_share_the_forward(tmp_path, monkeypatch):
    assert forwards(SHARING, tmp_path / "shared", monkeypatch) == {1}  # of all, which also tells the scores
    # Captum's own run by themselves, once for each of the four targets: best, worst, and two in the image.
    captums = [*SHARING, {"method": "captum:Saliency"}]
    assert min(forwards(captums, tmp_path / "captum", monkeypatch)) > 2


def test_meta_saliency_shares_the_step(tmp_path, monkeypatch):
    meta = {"meta_saliency": {"lr": 0.001}}
    one = forwards([{"method": "normgrad"} | meta], tmp_path / "one", monkeypatch)
    both = forwards([m | meta for m in SHARING[:3]], tmp_path / "all", monkeypatch)
    assert both == one


def test_arguments_of_attribute_are_the_plans(tmp_path):
    """They are what a call is given, count as another method's where they change, and come back with the results."""
    few, more = ({"method": "captum:LayerIntegratedGradients", "arguments": {"n_steps": n}} for n in (2, 3))
    own = {"method": "gradcam", "arguments": {"relu_attributions": False}}
    labelled = [few | {"label": "few"}, more | {"label": "more"}, own | {"label": "signed"}, {"method": "gradcam"}]
    found = run(plan(labelled), tmp_path, show_progress=False)
    assert found.plan.hash() == plan(labelled).hash() != plan([few, *labelled[1:]]).hash()
    assert [m.arguments for m in found.plan.methods[:3]] == [few["arguments"], more["arguments"], own["arguments"]]
    prepared = prepare(found.plan, torch.device("cpu"))
    batch, columns = prepared.explained([prepared.images.read(0)], torch.device("cpu"))
    maps = {(c.method, c.layer): c.maps[0] for c in columns}
    target = int(batch.best[0])
    for label, n in (("few", 2), ("more", 3)):
        direct = captum.attr.LayerIntegratedGradients(batch.model, batch.model.conv2)
        expected = direct.attribute(batch.x, target=target, n_steps=n).sum(1, keepdim=True)
        torch.testing.assert_close(maps[label, "conv2"], expected.to(maps[label, "conv2"]))
    signed = cea.GradCAM(batch.model, "conv2").attribute(batch.x, target, relu_attributions=False)
    torch.testing.assert_close(maps["signed", "conv2"], signed)
    torch.testing.assert_close(maps["gradcam", "conv2"], signed.relu())
    marks = [set(method.marks().values()) for method in prepared.methods]
    assert not marks[0] & marks[1]
    assert not marks[2] & marks[3]


def test_memory_is_flat_in_the_number_of_images(only_new_objects, tmp_path, monkeypatch):
    alive, add = [], Writer.add

    def counting(self, batch, found):
        add(self, batch, found)
        del found
        gc.collect()
        alive.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))

    monkeypatch.setattr(Writer, "add", counting)
    run(plan(SHARING), tmp_path, show_progress=False)
    assert len(alive) == 6
    assert max(alive[1:]) <= alive[1]


def test_rounding_is_no_map():
    noise = 0.3 * (1 + 1e-7 * torch.rand(2, 1, 9, 9))
    level = levelled(noise)
    assert spearman(level, level).isnan().all()
    real = torch.rand(2, 1, 9, 9)
    assert torch.equal(levelled(real), real)
    mixed = torch.cat([noise[:1], real[:1], torch.zeros(1, 1, 9, 9)])
    assert torch.equal(levelled(mixed)[1], real[0])
    assert levelled(mixed)[0].unique().numel() == 1
    assert torch.equal(levelled(mixed)[2], mixed[2])
    faint = torch.ones(1, 1, 9, 9)
    faint[0, 0, 4, 4] = 1.001
    assert torch.equal(levelled(faint), faint)


WRONG = {
    "an unknown method": (methods(method="normgrat"), "method is 'normgrat', .* did you mean 'normgrad'"),
    "an unknown extract": (methods(method="conv3x4:norm"), "'conv3x4'"),
    "an unknown aggregate": (methods(method="conv3x3:nrom"), "'nrom'"),
    "an unknown method of Captum's": (methods(method="captum:LayerGradCAM"), "did you mean 'captum:LayerGradCam'"),
    "an unknown layer of a method": (methods(layers=["later2"]), "'later2'.*'layer2'"),
    "the same layer twice": (content(layers=["layer3", "layer3"]), "'layer3' twice"),
    "the same layer of a method twice": (methods(layers=["layer3", "layer2", "layer3"]), "'layer3' twice"),
    "the same combination twice": (
        content(methods=[{"method": "normgrad", "layers": ["layer2", "layer3"], "combine": [{}, {}]}]),
        "'product, uniform' twice",
    ),
    "two combinations with weights of their own": (
        content(
            methods=[
                {"method": "normgrad", "layers": ["layer2", "layer3"]}
                | {"combine": [{"weights": [1, 2]}, {"weights": [2, 1]}]}
            ]
        ),
        "'product, own weights' twice",
    ),
    "a combination named like a layer": (combine(label="layer3"), "'layer3' twice"),
    "weights in a file that is not there": (combine(weights="nowhere.json"), "'nowhere.json', and there is no such"),
    "an argument that a method has not": (methods(arguments={"gama": 1}), "method 'normgrad': .*'gama'"),
    "an argument that Captum's has not": (
        methods(method="captum:LayerGradCam", arguments={"gama": 1}),
        "method 'captum:LayerGradCam': .*'gama'",
    ),
    "an argument that neither Captum's nor its attribute has": (
        methods(method="captum:LayerIntegratedGradients", arguments={"nsteps": 8}),
        "'nsteps' is given to LayerIntegratedGradients, which takes .*, and whose attribute takes .* mean 'n_steps'",
    ),
    "a value that a method refuses": (methods(method="rectgrad", arguments={"percentile": 200}), "percentile is 200"),
    "weights of the wrong number": (combine(weights=[1, 2, 3]), "weights has 3 numbers for 2 layers"),
    "negative weights": (combine(weights=[1, -2]), "weights are .* expected numbers of at least 0"),
    "unknown weights": (combine(weights="linaer"), "weights is 'linaer', .* did you mean 'linear'"),
    "a combination of one layer": (methods(combine=[{}]), "nothing to combine; expected several layers"),
    "a combination of an input map": (
        content(methods=[{"method": "captum:Saliency", "combine": [{}], "layers": ["layer2", "layer3"]}]),
        "nothing to combine",
    ),
    "a combination of joined layers": (
        content(methods=[{"method": "fullgrad", "combine": [{}], "layers": ["layer2", "layer3"]}]),
        "nothing to combine",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_methods(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(*WRONG[case], tmp_path)


@pytest.mark.parametrize("error", ["x.nothing", "torch.ones(2) + torch.ones(3)", "int('one')"])
def test_an_error_of_ones_own_method_or_measure_says_where(error, tmp_path):
    (tmp_path / "own.py").write_text(
        "import captum.attr, torch\n"
        "class Mine(captum.attr.LayerGradCam):\n"
        "    def attribute(self, x, target=None):\n"
        f"        return {error}\n"
        "def mine(maps, x, target, model):\n"
        f"    return {error}\n"
    )
    check_refused(
        methods(method=f"{tmp_path / 'own.py'}:Mine"), r"cannot explain this model: .* \(own\.py, line 4\)", tmp_path
    )
    measures = [{"measure": f"{tmp_path / 'own.py'}:mine"}]
    with pytest.raises(ValueError, match=r"failed on the maps of normgrad .* \(own\.py, line 6\)$"):
        run(plan_from(content(measures=measures)), tmp_path / "results", show_progress=False)


def test_files_that_hold_no_weights(tmp_path):
    def file(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    for plain, message in (
        (combine(weights=file("no-weights.json", "{")), "no-weights.json"),
        (combine(weights=file("other.json", '{"gamma": 1}')), "other.json"),
        (combine(weights=file("half.json", '{"weights": {"layer2": 1}}')), "weights name 1 layers"),
        (combine(weights=file("text.json", '{"weights": {"layer2": 1, "layer3": "a"}}')), "text.json|number for each"),
    ):
        check_refused(plain, message, tmp_path)
