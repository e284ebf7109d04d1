"""One pass serves what can share it, and nothing piles up from image to image."""

import gc
import itertools

import torch

from captum_extract_aggregate.evaluation import plan_from, run
from captum_extract_aggregate.evaluation.store import Writer
from tests.evaluation.plans import HERE, TinyNet, content

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
    assert forwards(SHARING, tmp_path / "shared", monkeypatch) == {2}  # the scores, and the pass of all
    # Captum's own run by themselves, once for each of the four targets: best, worst, and two in the image.
    captums = [*SHARING, {"method": "captum:Saliency"}]
    assert min(forwards(captums, tmp_path / "captum", monkeypatch)) > 2


def test_meta_saliency_shares_the_step(tmp_path, monkeypatch):
    meta = {"meta_saliency": {"lr": 0.001}}
    one = forwards([{"method": "normgrad"} | meta], tmp_path / "one", monkeypatch)
    both = forwards([m | meta for m in SHARING[:3]], tmp_path / "all", monkeypatch)
    assert both == one


def test_memory_is_flat_in_the_number_of_images(tmp_path, monkeypatch):
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
