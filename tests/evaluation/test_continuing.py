"""Results go on where more is asked for, are kept where nothing changed, and refused, by name, where something did."""

import json
import os
import sys
from pathlib import Path

import pytest

from captum_extract_aggregate.evaluation import Results, plan_from, run
from captum_extract_aggregate.evaluation.sources import sources
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.plans import HERE, SIZES, coco_tree, content, dump, evaluated, picture, picture_folder, voc_tree

run_module = sys.modules["captum_extract_aggregate.evaluation.runner"]
NET = {"name": f"{HERE}:tiny_net"}
TENSORS = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"count": 5}}
SMALL = {"model": NET, "layers": ["conv1"], "data": TENSORS}


def evaluated_images(folder, monkeypatch, **changes):
    """What an evaluation finds, and which batches of images it computed for that."""
    seen, original = [], run_module.evaluate_batch

    def counting(prepared, images, device):
        seen.append((images.start, images.stop))
        return original(prepared, images, device)

    monkeypatch.setattr(run_module, "evaluate_batch", counting)
    found = evaluated(folder, **changes)
    monkeypatch.undo()
    return found, seen


# --- More, or less, of the same --------------------------------------------------------------------------------------

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

    original = run_module.evaluate_batch
    evaluated(tmp_path, **BEFORE)
    monkeypatch.setattr(run_module, "evaluate_batch", recording)
    more = [{"method": "normgrad", "combine": [{}]}, {"method": "linear-approximation"}]  # at conv1, too
    evaluated(tmp_path, **BEFORE | {"methods": more})
    methods, wanted = calls[-1]
    assert methods == {"linear-approximation": ("conv1",)}
    assert {cell[:2] for cell in wanted} == {("linear-approximation", "conv1")}


def test_everything_grows_at_once_and_is_killed_meanwhile(tmp_path, monkeypatch):
    changed = {key: value for part in ("methods", "measures", "images") for key, value in MORE[part].items()}
    evaluated(tmp_path / "results", **BEFORE)
    original = run_module.evaluate_batch

    def failing(prepared, images, device):
        if images.start == 2:
            raise KeyboardInterrupt
        return original(prepared, images, device)

    monkeypatch.setattr(run_module, "evaluate_batch", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "results", **BEFORE | changed)
    monkeypatch.undo()
    partial = Results(tmp_path / "results")
    assert not partial.complete
    assert partial.lacking == 3
    found = evaluated(tmp_path / "results", **BEFORE | changed)
    assert found.complete
    assert dump(found) == dump(evaluated(tmp_path / "scratch", **BEFORE | changed))


ALONE = {
    "scene-vgg": ["features.8", "features.18"],
    "scene-resnet": ["layer1", "layer3"],
    "scene-vit": ["blocks.1", "blocks.4"],
    "squeezenet1_1": ["features.5", "features.12"],
}


@pytest.mark.parametrize("name", ALONE)
def test_numbers_do_not_depend_on_what_else_is_computed(name, tmp_path):
    """To the last digit: fused kernels would round differently below the first layer that is explained."""
    data = {"n": 2} if name.startswith("scene") else {"kind": "list", "file": str(listed(tmp_path)), "size": 64}
    model = {"name": name} if name.startswith("scene") else {"name": name, "weights": "random"}
    try:
        changes = {"model": model, "data": data, "methods": [{"method": "normgrad"}, {"method": "excitation"}]}
        both = evaluated(tmp_path / "both", **changes, layers=ALONE[name])
    except ValueError as error:
        if "excitation" not in str(error):
            raise
        changes["methods"] = [{"method": "normgrad"}]
        both = evaluated(tmp_path / "both", **changes, layers=ALONE[name])
    late = evaluated(tmp_path / "late", **changes, layers=ALONE[name][1:])
    assert late.rows("class_sensitivity") == both.rows("class_sensitivity", layer=ALONE[name][1])
    assert list(late.targets().values()) == list(both.targets().values())


def test_nothing_to_do(tmp_path, capsys):
    plan = plan_from(content(**SMALL))
    run(plan, tmp_path)
    assert "nothing to do" not in capsys.readouterr().out
    found = run(plan, tmp_path)
    told = capsys.readouterr().out
    assert f"nothing to do: {found.count()} results of {found.date}" in told
    assert found.count() == 5
    assert found.date[:2] == "20"


# --- Something else in the same place: plans --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"run": {"seed": 1}}, "run.seed is 1, was 0"),
        ({"data": TENSORS | {"start": 1}}, "data.start is 1, was 0"),
        ({"data": TENSORS | {"size": 9}}, "data.size is 9, was 0"),
        ({"measures": [{"measure": "class_sensitivity", "arguments": {"similarity": "ssim"}}]}, "arguments.similarity"),
        (
            {"measures": [{"measure": "completeness_gap", "label": "class_sensitivity"}]},
            "measure is 'completeness_gap'",
        ),
        ({"methods": [{"method": "gradcam", "label": "normgrad"}]}, "method is 'gradcam', was 'normgrad'"),
        ({"methods": [{"method": "normgrad", "channels": "max_abs"}]}, "method 'normgrad'.channels is 'max_abs'"),
        ({"methods": [{"method": "normgrad", "meta_saliency": {}}]}, "method 'normgrad'.meta_saliency"),
    ],
)
def test_a_plan_that_differs_is_refused_by_its_key(changes, key, tmp_path):
    small = {key: value for key, value in SMALL.items() if key != "run"}
    plan = plan_from(content(**small) | {"run": {"batch_size": 2}})
    run(plan, tmp_path, show_progress=False)
    before = dump(tmp_path)
    changed = content(**SMALL) | changes
    changed["run"] = {"batch_size": 2} | changed["run"]
    with pytest.raises(ResultsError, match="results of another plan") as caught:
        run(plan_from(changed), tmp_path, show_progress=False)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)
    assert dump(tmp_path) == before


# --- Something else in the same place: code ---------------------------------------------------------------------------

MINE = """
from helper_of_measures import twice

SCALE = 3.0

def scaled(values):
    return SCALE * values

def mine(maps, inputs, targets, model):
    return scaled(maps.double().flatten(1).sum(1))

def other(maps, inputs, targets, model):
    return twice(maps.double().flatten(1).sum(1))

class Net:
    pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of measures, and one beside it that it imports."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("helper_of_measures")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "helper_of_measures.py").write_text("def twice(values):\n    return 2 * values\n")
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    yield path
    sys.modules.pop("helper_of_measures", None)


def test_a_measure_that_was_edited_is_refused(mine, tmp_path):
    changes = SMALL | {"measures": [{"measure": f"{mine}:mine", "label": "own"}]}
    evaluated(tmp_path / "results", **changes)
    for edit in (("3.0", "4.0"), ("SCALE * values", "SCALE + values"), (".sum(1)", ".mean(1)")):
        mine.write_text(MINE.replace(*edit))
        with pytest.raises(ResultsError, match=r"changed since: the code of measure 'own' in .*mine.py") as caught:
            evaluated(tmp_path / "results", **changes)
        assert "choose another --results" in str(caught.value)
    mine.write_text("# comments and functions beside it are nothing to it\n" + MINE + "\ndef third():\n    pass\n")
    assert evaluated(tmp_path / "results", **changes).complete


def test_a_measure_beside_another_is_added(mine, tmp_path):
    changes = SMALL | {"measures": [{"measure": f"{mine}:mine"}]}
    evaluated(tmp_path / "results", **changes)
    mine.write_text(MINE + "\ndef third(maps, inputs, targets, model):\n    return maps.flatten(1).amax(1)\n")
    changes["measures"] = [*changes["measures"], {"measure": f"{mine}:third"}]
    assert dump(evaluated(tmp_path / "results", **changes)) == dump(evaluated(tmp_path / "scratch", **changes))


def test_a_file_that_a_measure_imports(mine, tmp_path):
    helper = mine.with_name("helper_of_measures.py")
    for name, refused in (("other", True), ("mine", False)):
        helper.write_text("def twice(values):\n    return 2 * values\n")
        changes = SMALL | {"measures": [{"measure": f"{mine}:{name}"}]}
        evaluated(tmp_path / name, **changes)
        helper.write_text("def twice(values):\n    return 3 * values\n")
        if refused:
            with pytest.raises(ResultsError, match=r"changed since: .*helper_of_measures.py"):
                evaluated(tmp_path / name, **changes)
        else:
            assert evaluated(tmp_path / name, **changes).complete


NET_FILE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
def build():
    torch.manual_seed(0)
    return Net()
"""


def test_a_forward_that_was_edited_with_the_same_weights(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(NET_FILE)
    changes = SMALL | {"model": {"name": f"{file}:build"}, "layers": ["conv"]}
    evaluated(tmp_path / "results", **changes)
    file.write_text(NET_FILE.replace(".relu()", ".tanh()"))
    with pytest.raises(ResultsError, match=r"changed since: the model's code in .*net.py.*bring them back"):
        evaluated(tmp_path / "results", **changes)


def test_what_a_function_is_made_of(tmp_path, monkeypatch):
    """Every part that it uses, however it is bound; nothing that is installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "package_of_sources"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("from .deep import far\n")
    (package / "inner" / "deep.py").write_text("import json\nfar = json.dumps\n")
    (package / "near.py").write_text("from . import inner\nfrom .inner import far\nX = 1\n")
    text = (
        "import numpy as np\nfrom package_of_sources.near import far\n"
        "try:\n    import tomllib\nexcept ImportError:\n    tomllib = None\n"
        "A, B = 1, 2\nC = {}\nC['x'] = 5\n"
        "if A:\n    def branch():\n        return B\nelse:\n    branch = None\n"
        "def f():\n    return branch(), C\n"
        "def g():\n    from package_of_sources import near\n    return near.X\n"
        "h = lambda: far\n"
        "def by_name():\n    return globals()['g']()\n"
        "print_ = print\n"
    )
    file = tmp_path / "functions.py"

    def digests(name, old="", new=""):
        file.write_text(text.replace(old, new) if old else text)
        return sources(f"{file}:{name}")

    assert list(digests("f")) == [str(file)]
    deep = {str(package / "inner" / n) for n in ("__init__.py", "deep.py")}
    assert set(digests("h")) >= {str(file), str(package / "near.py")} | deep
    assert str(package / "near.py") in digests("g")
    same = digests("f")
    for old, new in (("B = 1, 2", "B = 1, 3"), ("= 5", "= 6"), ("return B", "return A"), ("if A", "if not A")):
        assert digests("f", old, new) != same, old
    for old, new in (("near.X", "near.Y"), ("h = lambda: far", "h = 3"), ("print_ = print", "")):
        assert digests("f", old, new) == same, old
    assert digests("by_name", "near.X", "near.Y") != digests("by_name")
    assert sources("json:dumps") == {}
    assert sources("captum_extract_aggregate.metrics:compare") == {}


# --- Something else in the same place: images -------------------------------------------------------------------------


def listed(folder, names=("a", "b", "c", "d"), labels=(0, 1, 2, 3)):
    """A list of pictures with classes."""
    for i, name in enumerate(names):
        if not (folder / f"{name}.png").exists():
            picture(i, SIZES[i % len(SIZES)]).save(folder / f"{name}.png")
    file = folder / "list.txt"
    file.write_text("".join(f"{name}.png\t{label}\n" for name, label in zip(names, labels)))
    return file


def of_list(folder, **changes):
    return SMALL | {"data": {"kind": "list", "file": str(listed(folder, **changes)), "size": 24}}


def replaced_in_place(path):
    """Another picture of the same size in bytes and with the same time."""
    before = path.stat()
    content_ = path.read_bytes()
    path.write_bytes(content_[:-20] + bytes(b ^ 1 for b in content_[-20:-12]) + content_[-12:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_images_of_a_list_that_changed(tmp_path):
    results, changes = tmp_path / "results", of_list(tmp_path)
    expected = dump(evaluated(results, **changes))

    def refused(message, **changes):
        with pytest.raises(ResultsError, match=message) as caught:
            evaluated(results, **changes)
        assert "choose another --results" in str(caught.value)
        assert "list.txt" in str(caught.value)

    refused("image 1 .*is 'e.png', was 'b.png'", **of_list(tmp_path, names=("a", "e", "c", "d")))
    refused("image 2 .*'c.png'.* has changed", **of_list(tmp_path, labels=(0, 1, 0, 3)))
    original = (tmp_path / "c.png").read_bytes()
    picture(77, SIZES[2]).save(tmp_path / "c.png")
    refused("image 2 .*'c.png'.* has changed", **of_list(tmp_path))
    (tmp_path / "c.png").write_bytes(original)
    os.utime(tmp_path / "c.png", (1, 1))  # another time alone is no change
    assert dump(evaluated(results, **of_list(tmp_path))) == expected
    replaced_in_place(tmp_path / "c.png")
    refused("image 2 .*'c.png'.* has changed", **of_list(tmp_path))


@pytest.mark.parametrize(
    "names",
    [("a", "b", "c", "d", "e", "f"), ("z", "a", "b", "c", "d"), ("b", "a", "c", "d"), ("a", "b", "c"), ("a", "c")],
)
def test_images_of_a_list_that_came_went_or_moved(names, tmp_path, monkeypatch):
    evaluated(tmp_path / "results", **of_list(tmp_path))
    changes = of_list(
        tmp_path, names=names, labels=[ord(name) % 3 if name in "efz" else "abcd".index(name) for name in names]
    )
    found, seen = evaluated_images(tmp_path / "results", monkeypatch, **changes)
    assert dump(found) == dump(evaluated(tmp_path / "scratch", **changes))
    if names[:2] == ("a", "b") and len(names) % 2 == 0:
        assert (0, 2) not in seen


def test_a_folder_that_grows(tmp_path, monkeypatch):
    root = picture_folder(tmp_path / "folder", 4)
    changes = SMALL | {"data": {"kind": "folder", "root": str(root), "size": 24}}
    evaluated(tmp_path / "results", **changes)
    picture_folder(root, 6)
    found, seen = evaluated_images(tmp_path / "results", monkeypatch, **changes)
    assert dump(found) == dump(evaluated(tmp_path / "scratch", **changes))
    assert (0, 2) not in seen  # ants 0 and 2, which are still the first


def test_annotations_that_changed(tmp_path):
    voc = SMALL | {"data": {"kind": "voc", "root": str(voc_tree(tmp_path)), "size": 24}}
    coco = SMALL | {"data": coco_tree(tmp_path / "coco")}
    for name, changes in (("voc", voc), ("coco", coco)):
        evaluated(tmp_path / name, **changes)
    annotation = tmp_path / "VOCdevkit" / "VOC2007" / "Annotations" / "000003.xml"
    annotation.write_text(annotation.read_text().replace("<xmin>1<", "<xmin>2<"))
    with pytest.raises(ResultsError, match=r"image 3 .*'000003.jpg'.* has changed"):
        evaluated(tmp_path / "voc", **voc)
    file = Path(coco["data"]["file"])
    annotations = json.loads(file.read_text())
    annotations["annotations"][-1]["category_id"] = 3
    file.write_text(json.dumps(annotations))
    with pytest.raises(ResultsError, match=r"image 3 .*'3.png'.* has changed"):
        evaluated(tmp_path / "coco", **coco)


def test_a_data_set_of_one_s_own_that_changed(tmp_path):
    file = tmp_path / "data.py"
    code = (
        "import torch\n"
        "def data(classes=3):\n"
        "    seeds = [torch.Generator().manual_seed(i) for i in range(4)]\n"
        "    return [(torch.randn(3, 8, 8, generator=seed), i % classes) for i, seed in enumerate(seeds)]\n"
    )
    file.write_text(code)
    changes = SMALL | {"data": {"kind": "custom", "dataset": f"{file}:data"}}
    evaluated(tmp_path / "results", **changes)
    file.write_text(code.replace("return", "return  "))
    assert evaluated(tmp_path / "results", **changes).complete  # it gives the same
    for edit in (("manual_seed(i)", "manual_seed(i + (i == 3))"), ("i % classes", "i // 3")):
        file.write_text(code.replace(*edit))
        with pytest.raises(ResultsError, match=r"image [123] of '.*data.py:data' .*has changed"):
            evaluated(tmp_path / "results", **changes)
    file.write_text(code)
    with pytest.raises(ResultsError, match=r"image 2 .*has changed"):
        evaluated(tmp_path / "results", **changes | {"data": changes["data"] | {"arguments": {"classes": 2}}})
