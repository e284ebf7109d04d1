"""Results go on where more is asked for, and are kept where nothing changed."""

import shutil

import pytest
import torch

from captum_extract_aggregate.evaluation import Results, plan_from, run, runner
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.continuing import SMALL, TENSORS, evaluated_images
from tests.evaluation.plans import HERE, content, dump, evaluated, interrupt_at
from tests.evaluation.store.cases import NET, QUICK

CAPTUMS = {"method": "captum:KernelShap", "label": "drawn"}


BEFORE = SMALL | {
    "methods": [{"method": "normgrad", "combine": [{}]}, {"method": "linear-approximation", "layers": ["conv2"]}],
    "layers": ["conv1", "conv2"],
    "measures": [{"measure": "class_sensitivity"}, {"measure": f"{HERE}:drawn_value"}],
    "data": TENSORS | {"arguments": {"count": 5, "size": 8}},
}


MORE = {
    "methods": {
        "methods": [{"method": "gradcam"}, *BEFORE["methods"], {"method": "captum:Saliency"}, CAPTUMS],
    },
    "measures": {"measures": [{"measure": f"{HERE}:total"}, *BEFORE["measures"], {"measure": "completeness_gap"}]},
    "layers": {
        "methods": [
            {"method": "normgrad", "combine": [{}, {"mode": "sum"}], "layers": ["input", "conv1", "conv2"]},
            {"method": "linear-approximation", "layers": ["conv1", "conv2"]},
        ]
    },
    "images": {"data": BEFORE["data"] | {"arguments": {"count": 8, "size": 8}}},
    "fewer methods": {"methods": BEFORE["methods"][1:]},
    "fewer measures": {"measures": BEFORE["measures"][1:]},
    "fewer layers": {"methods": [{"method": "normgrad"}], "layers": ["conv2"]},
    "fewer images": {"data": BEFORE["data"] | {"n": 3}},
    "all in another order": {"methods": BEFORE["methods"][::-1], "measures": BEFORE["measures"][::-1]},
}


@pytest.mark.parametrize("what", MORE)
def test_more_or_less_of_the_same_is_what_a_run_from_scratch_gives(what, tmp_path, monkeypatch):
    changed = BEFORE | MORE[what]
    first = dump(evaluated(tmp_path / "results", **BEFORE))
    found, seen = evaluated_images(tmp_path / "results", monkeypatch, **changed)
    assert found.complete
    assert dump(found) == dump(evaluated(tmp_path / "scratch", **changed))
    if what == "images":
        assert seen == [(2, 4), (4, 6), (6, 8)]  # the last batch had three images, and has two now
    elif what.startswith(("fewer", "all")):
        assert seen == ([(0, 3)] if what == "fewer images" else [])
    again, seen = evaluated_images(tmp_path / "results", monkeypatch, **BEFORE)  # nothing was thrown away
    assert dump(again) == first
    assert not seen


def test_what_is_there_is_not_computed_again(tmp_path, monkeypatch):
    """Neither measures, nor the maps of methods and layers that lack none."""
    calls = []

    def recording(prepared, images, device):
        calls.append(({m.label: m.layers for m in prepared.methods}, prepared.wanted))
        return original(prepared, images, device)

    original = runner.evaluate_batch
    evaluated(tmp_path, **BEFORE)
    monkeypatch.setattr(runner, "evaluate_batch", recording)
    more = [{"method": "normgrad", "combine": [{}]}, {"method": "linear-approximation"}]  # at conv1, too
    evaluated(tmp_path, **BEFORE | {"methods": more})
    methods, wanted = calls[-1]
    assert methods == {"linear-approximation": ("conv1",)}
    assert {cell[:2] for cell in wanted} == {("linear-approximation", "conv1")}


def test_everything_grows_at_once_and_is_killed_meanwhile(tmp_path, monkeypatch):
    changed = {key: value for part in ("methods", "measures", "images") for key, value in MORE[part].items()}
    evaluated(tmp_path / "results", **BEFORE)
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "results", **BEFORE | changed)
    monkeypatch.undo()
    partial = Results(tmp_path / "results")
    assert not partial.complete
    assert partial.lacking == 3
    found = evaluated(tmp_path / "results", **BEFORE | changed)
    assert found.complete
    assert dump(found) == dump(evaluated(tmp_path / "scratch", **BEFORE | changed))


def test_nothing_to_do(tmp_path, capsys):
    plan = plan_from(content(**SMALL))
    run(plan, tmp_path)
    assert "nothing to do" not in capsys.readouterr().out
    found = run(plan, tmp_path)
    told = capsys.readouterr().out
    assert f"nothing to do: {found.count()} results of {found.date}" in told
    assert found.count() == 5
    assert found.date[:2] == "20"


def test_nothing_is_computed_twice(whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.setattr(runner, "evaluate_batch", lambda *args: pytest.fail("computed again"))
    assert dump(evaluated(folder, **QUICK)) == dump(whole)
    runs = Results(folder).environments
    assert len(runs) == 2
    assert {r["plan"] for r in runs} == {plan_from(content(**QUICK)).hash()}
    assert {"torch", "captum", "numpy", "python", "seed", "device"} <= set(runs[0])


def test_another_plans_results(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    before = dump(folder)
    message = r"holds results of another plan \(run.batch_size is 3, was 2\).*move it away"
    with pytest.raises(ResultsError, match=message) as caught:
        evaluated(folder, **QUICK | {"run": {"batch_size": 3}})
    assert "part-0000.sqlite" in str(caught.value)
    assert dump(folder) == before
    evaluated(folder, **QUICK | {"title": "only another title"})
    assert dump(folder) == before
    evaluated(tmp_path / "other", **QUICK | {"run": {"batch_size": 3}})
    shutil.copy(tmp_path / "other" / "part-0000.sqlite", folder / "part-0001.sqlite")
    with pytest.raises(ResultsError, match=r"part-0001.sqlite holds results of another plan"):
        evaluated(folder, **QUICK)
    with pytest.raises(ResultsError, match="results of several plans"):
        Results(folder)


def test_other_weights_are_refused(tmp_path):
    from captum_extract_aggregate.data.scene_models import build_scene_model

    model = tmp_path / "model.py"
    code = "from captum_extract_aggregate.data.scene_models import build_scene_model"
    model.write_text(f"{code}\nbuild = lambda: build_scene_model('vgg')\n")
    weights = tmp_path / "weights.pth"
    changes = {"model": {"name": f"{model}:build", "weights": str(weights)}, "layers": ["features.8"]}
    changes |= {"data": {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"size": 96}}}
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(build_scene_model("vgg").state_dict(), weights)
        if seed == 0:
            first = dump(evaluated(tmp_path / "results", **changes))
            assert dump(evaluated(tmp_path / "results", **changes)) == first
        else:
            with pytest.raises(ResultsError, match=r"written with other weights or data .*bring them back"):
                evaluated(tmp_path / "results", **changes)


def test_skipping_may_come_later(tmp_path):
    """What the error of an unreadable image advises works, and keeps what is there."""
    data = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"count": 6, "broken": [4]}}
    changes = {"data": data, "model": NET["model"], "layers": ["conv1"]}
    with pytest.raises(ValueError, match=r'image 4 cannot be read.*with on_error = "skip"'):
        evaluated(tmp_path, **changes)
    assert len(Results(tmp_path).images()) == 4
    found = evaluated(tmp_path, **changes, run={"batch_size": 2, "on_error": "skip"})
    assert [row.image for row in found.skipped()] == [4]
    assert found.complete
