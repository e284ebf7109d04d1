"""Plans with one thing wrong in them, and the one line that must say it before there is a folder."""

import pytest

from captum_extract_aggregate.evaluation import plan_from, run
from tests.evaluation.plans import HERE, content


def check_refused(plain, message, folder):
    with pytest.raises(ValueError, match=message) as caught:
        run(plan_from(plain), folder / "results", show_progress=False)
    assert "\n" not in str(caught.value), plain
    assert not (folder / "results").exists(), plain


def methods(**changes):
    return content(methods=[{"method": "normgrad"} | changes])


def measures(measure="class_sensitivity", **arguments):
    return content(measures=[{"measure": measure, "arguments": arguments}])


def combine(**changes):
    return content(methods=[{"method": "normgrad", "layers": ["layer2", "layer3"], "combine": [changes]}])


def data(**changes):
    return content(data={"n": 2} | changes)


def model(**changes):
    return content(model=changes)


def tiny(**changes):
    """On a network and tensors of one's own."""
    net = {"name": f"{HERE}:tiny_net"}
    custom = {"kind": "custom", "dataset": f"{HERE}:tensors", "size": 24}
    return content(**{"model": net, "data": custom, "layers": ["conv1"]} | changes)


def tiny_data():
    return {"data": {"kind": "custom", "dataset": f"{HERE}:tensors", "size": 24}, "layers": ["conv1"]}
