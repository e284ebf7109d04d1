"""Data of the kind "grid": which pictures are chosen of which data, from the command line too, and wrong plans."""

import sys

import pytest
import torch
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.data.models_by_name import load_subject
from captum_extract_aggregate.evaluation import DataPlan, plan_from, run
from captum_extract_aggregate.evaluation.datasets import open_images
from captum_extract_aggregate.scores import DiFull, DiPart
from tests.evaluation.plans import HERE, NET, evaluated, picture_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCENES = {"kind": "grid", "n": 2, "arguments": {"of": {"n": 20}, "cells": 2, "confidence": 0.3}}


def test_of_scenes():
    subject = load_subject("scene-resnet", "", 0)
    images = open_images(DataPlan(**SCENES), subject)
    assert (images.count, images.has_objects, images.classes[3]) == (2, True, "3")
    sample = images.read(1)
    assert (sample.name, sample.x.shape) == ("grid 1", (3, 192, 192))
    assert len(set(sample.pairs.classes)) == 4
    scenes = {i: (x, set(t["labels"].tolist())) for i, (x, t) in enumerate(cea.DigitScenes(20))}
    for digit, mask in zip(sample.pairs.classes, sample.pairs.masks):
        cell = sample.x[:, mask].reshape(3, 96, 96)
        shown = [labels for x, labels in scenes.values() if torch.equal(x, cell)]
        assert shown == [{digit}]  # of the pictures that show one class alone
        probability = subject.model(cell[None]).softmax(1)[0]
        assert int(probability.argmax()) == digit
        assert probability.max() >= 0.3
    assert images.picture(sample.x).max() <= 1
    later = open_images(DataPlan(**SCENES | {"n": 1, "start": 1, "seed": 0}), subject)
    assert later.count == 1
    assert torch.equal(later.read(0).x, sample.x)


def test_files_are_what_grids_are_made_of(tmp_path):
    folder = picture_folder(tmp_path / "pictures", 4)
    subject = load_subject(NET["name"], "", 0)
    of = {"kind": "folder", "root": str(folder), "size": 24}
    subject.model.fc.bias.data[1] += 1000  # everything is a bee, of which there are two
    images = open_images(DataPlan(kind="grid", n=9, arguments={"of": of, "cells": 1}), subject)
    assert {images.source(i).files for i in range(9)} == {(folder / "bees" / f"{i}.png",) for i in (1, 3)}
    assert images.classes == ("ants", "bees")
    assert images.read(0).pairs.classes == [1]
    with pytest.raises(ValueError, match="pictures of 1 classes are left; expected 4"):
        open_images(DataPlan(kind="grid", arguments={"of": of, "cells": 2}), subject)


PLAN = """
layers = ["layer3"]
[data]
kind = "grid"
n = 1
[data.arguments]
cells = 2
confidence = 0.3
of = { kind = "scenes", n = 20 }
[model]
name = "scene-resnet"
[[methods]]
method = "linear-approximation"
[[methods]]
method = "gradcam"
[[measures]]
measure = "grid_pointing_game"
[[measures]]
measure = "difull"
[[measures]]
measure = "dipart"
"""


def test_in_a_plan(tmp_path):
    results = run(plan_from(tomllib.loads(PLAN)), tmp_path / "r", show_progress=False)
    model = cea.load_scene_model("resnet")
    images = open_images(results.plan.data, load_subject("scene-resnet", "", 0))
    wrapped = {"grid_pointing_game": model, "difull": DiFull(model, n=2), "dipart": DiPart(model, n=2)}
    for measure, network in wrapped.items():
        for name, method in (("linear-approximation", cea.LinearApproximation), ("gradcam", cea.GradCAM)):
            found = {(r.image, r.target): r.value for r in results.rows(measure, "accuracy", method=name)}
            above = {(r.image, r.target): r.value for r in results.rows(measure, "above_chance", method=name)}
            assert len(found) == len(above) == 4
            for i in range(1):
                x, pairs = images.read(i).x[None].expand(4, -1, -1, -1), images.read(i).pairs
                given = {} if network is model else {"additional_forward_args": torch.arange(4)}
                maps = method(network, "layer3").attribute(x, target=torch.tensor(pairs.classes), **given)
                expected = metrics.grid_pointing_game(maps, list(range(4)), 2, size=x.shape[2:]).tolist()
                assert [found[i, c] for c in pairs.classes] == pytest.approx(expected, abs=2e-3)
                assert [above[i, c] for c in pairs.classes] == pytest.approx([e - 0.25 for e in expected], abs=2e-3)


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(PLAN)
    done = CliRunner().invoke(app, ["evaluate", "plan.toml"])
    assert done.exit_code == 0, done.output
    assert "*baseline: chance*" in (tmp_path / "plan-results" / "report" / "report.md").read_text()
    again = CliRunner().invoke(app, ["evaluate", "plan.toml"])
    assert "nothing to do" in again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cells": 2}, r"data\.arguments\.of is None; expected a table"),
        ({"of": {"kind": "scene"}}, r"data\.arguments\.of: data\.kind is 'scene'.*did you mean 'scenes'"),
        ({"of": {"size": 3}}, r"data\.size is 3, but does not apply to data of the kind 'scenes'"),
        ({"of": {"kind": "grid", "arguments": {"of": {}}}}, "expected pictures"),
        ({"of": {"n": 4}, "cell": 2}, r"a key of data\.arguments is 'cell'.*did you mean 'cells'"),
        ({"of": {"n": 4}, "cells": 0}, r"data\.arguments: cells is 0"),
        ({"of": {"n": 4}, "cells": 4}, r"data\.arguments: cells is 4, and pictures of . classes are left; expected 16"),
        ({"of": {"n": 4}, "confidence": 2}, r"confidence is 2"),
        ({"of": {"n": 4}, "enlarge": 1}, r"data\.arguments\.enlarge is 1; expected true or false"),
    ],
)
def test_wrong_plans(arguments, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=message):
        evaluated(tmp_path / "r", data={"kind": "grid", "arguments": arguments})


def test_other_data_has_no_cells(tmp_path):
    data = {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs"}
    for measure in ("difull", "dipart"):
        with pytest.raises(ValueError, match=f"measure '{measure}' .*are no n x n cells of a grid"):
            evaluated(tmp_path / measure, model=NET, data=data, layers=["conv2"], measures=[{"measure": measure}])
