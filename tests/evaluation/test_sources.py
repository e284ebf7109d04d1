"""Code of one's own that changed, or that did not."""

import sys

import pytest

from captum_extract_aggregate.evaluation.sources import sources
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.continuing import SMALL
from tests.evaluation.plans import dump, evaluated

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
