"""`reproduce`: which settings a request names, what is told, and what cannot be tested."""

from dataclasses import replace
from pathlib import Path

import pytest

from captum_extract_aggregate import reproduction
from captum_extract_aggregate.attr.layer_weights import LayerWeights
from captum_extract_aggregate.reproduction import Finding, Outcome, Request, carry_out, reproduce, settings_of
from captum_extract_aggregate.reproduction.findings import UNTESTED
from captum_extract_aggregate.reproduction.setting import QUICK, SIZES
from tests.conftest import REAL_DATA, needs_real_data


def test_the_scenes_bring_two_networks():
    vgg, resnet = settings_of(Request(("all",), seed=7))
    assert (vgg.name, resnet.model.name) == ("scene-vgg", "scene-resnet")
    assert (vgg.data.n, vgg.data.seed, vgg.sizes) == (3 * SIZES["maps"], 7, SIZES)
    assert settings_of(Request(("all",), quick=True))[0].sizes == QUICK
    assert settings_of(Request(("all",), n=5))[0].sizes == {"maps": 5, "stages": 5, "removal": 5}


def test_data_of_the_user_s_own(tmp_path):
    (voc,) = settings_of(Request((), "voc", tmp_path, "nets/mine.py:build", layers=("a", "b"), resize="square"))
    assert (voc.name, voc.data.kind, voc.data.resize) == ("voc-nets-mine-build", "voc", "square")
    assert (voc.layers, voc.has_objects, voc.loss) == (("a", "b"), True, "binary_cross_entropy")
    (coco,) = settings_of(Request((), "coco", tmp_path, "resnet18", annotations="instances.json"))
    assert (coco.data.kind, coco.data.file, coco.has_objects) == ("coco", "instances.json", True)
    (folder,) = settings_of(Request((), "imagenet", tmp_path, "resnet18", "DEFAULT"))
    assert (folder.data.kind, folder.data.root, folder.has_objects) == ("folder", str(tmp_path), False)
    (listed,) = settings_of(Request((), "imagenet", Path("list.txt"), "resnet18"))
    assert (listed.data.kind, listed.data.file, listed.loss) == ("list", "list.txt", "cross_entropy")


def test_what_is_written_and_told(tmp_path, monkeypatch):
    """A section for each experiment and setting; what is told holds every verdict with its numbers."""
    outcomes = {
        "scene-vgg": Outcome(["| a | b |"], [Finding("one", True, 3, "2 against 1", 0.012)], [tmp_path / "p.png"]),
        "scene-resnet": Outcome(findings=[Finding("two", None, effect="no rule")]),
    }
    monkeypatch.setattr(reproduction, "carry_out", lambda name, setting: outcomes[setting.name])
    text, stands = reproduce(Request(("k20-fig1",), output=tmp_path / "out"))
    assert stands
    first, second = (tmp_path / "out" / f"k20-fig1-{name}.md" for name in outcomes)
    assert text.splitlines() == [
        f"k20-fig1 on scene-vgg: {first}",
        "  holds: one (n = 3, 2 against 1, p = 0.01)",
        f"k20-fig1 on scene-resnet: {second}",
        "  cannot be tested here: two (no rule)",
    ]
    again, _ = reproduce(Request(("k20-fig1",), output=tmp_path / "out"))
    assert again == text
    monkeypatch.setattr(reproduction, "carry_out", lambda name, setting: pytest.fail("it is there already"))
    (tmp_path / "out" / "p.png").touch()
    resumed, _ = reproduce(Request(("k20-fig1",), output=tmp_path / "out", resume=True))
    assert resumed == text
    parts = first.read_text().split("\n\n")
    assert parts[0] == "### k20-fig1, scene-vgg"
    assert parts[2] == "| a | b |"
    assert parts[-1] == "![k20-fig1 on scene-vgg](p.png)\n"


def test_what_cannot_be_tested_is_said(setting):
    blind = replace(setting, has_objects=False)
    (finding,) = carry_out("r20-table3", blind).findings
    assert finding.holds is None
    assert carry_out("r20-fig6", blind).tables


@pytest.mark.slow
@needs_real_data
def test_real_data(tmp_path):
    layers = ("features.8", "features.12")
    request = Request(
        ("r20-fig3", "k20-table1"),
        "voc",
        REAL_DATA,
        "squeezenet1_1",
        str(REAL_DATA / "models/squeezenet1_1-imagenet.pth"),
        str(REAL_DATA / "models/squeezenet1_1-voc-head.pth"),
        layers,
        n=6,
        output=tmp_path,
        show_progress=False,
    )
    text, _ = reproduce(request)
    assert "r20-fig3 on voc-squeezenet1_1" in text
    section = (tmp_path / "k20-table1-voc-squeezenet1_1.md").read_text()
    assert "restricted" in section


def test_probes_that_learn_nothing_are_told(monkeypatch):
    """A folder with one picture of each class is no mistake of the user's."""

    def nothing(*_args, **_kwargs):
        return LayerWeights({"layer1": 0.0, "layer2": 0.0}, "held-out accuracy", 7)

    monkeypatch.setattr("captum_extract_aggregate.reproduction.setting.accuracy_weights", nothing)
    (finding,) = carry_out("r20-fig9", settings_of(Request(("r20-fig9",), quick=True))[0]).findings
    assert finding.verdict == UNTESTED
    assert "held-out accuracy is 0" in finding.effect
