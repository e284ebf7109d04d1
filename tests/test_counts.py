"""What does not depend on the machine: how often things run, and what is recorded and dispatched."""

import gc
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torchvision
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import captum_extract_aggregate as cea
from benchmarks.performance.floor import gradients
from benchmarks.performance.maps import EXTRACTS, METHODS
from captum_extract_aggregate import metrics
from captum_extract_aggregate._engine.operations import tensors_in
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES
from captum_extract_aggregate.rules import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlusFlat
from tests.conftest import needs_indexing

VIEWS = {
    "detach",
    "view",
    "_unsafe_view",
    "unsqueeze",
    "squeeze",
    "alias",
    "expand",
    "t",
    "transpose",
    "permute",
    "slice",
}

# Operations at each layer, beside those of the floor.
MOST = {
    "NormGrad": 11,
    "conv3x3, filter_norm": 21,
    "selective NormGrad": 11,
    "linear approximation": 9,
    "GradCAM++": 15,
    "GradCAM_Pos": 8,
    "GradMid": 6,
    "activity": 9,
}


class Operations(TorchDispatchMode):
    """Counts the operations that compute or copy something."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def operations(run):
    with Operations() as seen:
        run()
    return seen.counts


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 64, 64)


class Passes:
    """Forwards of a model and calls of autograd."""

    def __init__(self, model, monkeypatch):
        self.forwards, self.backwards = [], []
        self.handle = model.register_forward_pre_hook(lambda _m, args: self.forwards.append(len(args[0])))
        grad = torch.autograd.grad
        monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (self.backwards.append(1), grad(*a, **k))[1])


@pytest.fixture
def passes(resnet, monkeypatch):
    counted = Passes(resnet, monkeypatch)
    yield counted
    counted.handle.remove()


LAYERS = ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("label", METHODS)
def test_a_map_adds_a_few_operations_to_the_floor(label, resnet, x):
    added = []
    for layers in (LAYERS[-1:], LAYERS):
        method = METHODS[label](resnet, layers)
        method.attribute(x, target=3)  # what is looked at but once
        ours = operations(lambda: method.attribute(x, target=3))  # noqa: B023
        floor = operations(gradients(resnet, x, layers))
        assert ours["convolution"] == floor["convolution"]
        assert ours["convolution_backward"] == floor["convolution_backward"]
        added.append(sum(ours.values()) - sum(floor.values()))
    at_a_layer = (added[1] - added[0]) / 3
    print(f"{label}: {added[0] - at_a_layer:.0f} operations more than the floor, and {at_a_layer:.0f} at each layer")
    assert at_a_layer <= MOST[label]
    assert added[0] - at_a_layer <= 9


def own_calls(run):
    """How many of the package's Python functions run."""
    root, count = str(Path(cea.__file__).parent), 0

    def note(frame, event, arg):
        nonlocal count
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root):
            count += not code.co_name.endswith("comp>")  # which are functions before Python 3.12 alone

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("make", "most"), [(cea.NormGrad, 780), (cea.LayerCAM, 630)], ids=["NormGrad", "LayerCAM"])
def test_a_call_of_a_session_is_short(make, most, resnet, x, monkeypatch):
    """Each function that runs cold, between two passes, takes a microsecond or more; the model has 68 modules."""
    monkeypatch.setattr(sys, "_current_frames", dict)  # no other thread, whatever other tests have left running
    method = make(resnet, LAYERS)
    with cea.prepared(resnet):
        for _ in range(2):
            method.attribute(x[:1], target=3)
        found = own_calls(lambda: method.attribute(x[:1], target=3))
    print(f"{make.__name__}: {found} functions")
    assert found <= most


def test_the_whole_grid_shares_its_pass(resnet, x, passes):
    cells = {
        f"{e}:{a}": cea.ExtractAggregate(resnet, LAYERS, extract=e, aggregate=a) for e in EXTRACTS for a in AGGREGATES
    }
    cea.attribute_together(cells, x, 3)
    assert (len(passes.forwards), len(passes.backwards)) == (1, 1)


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_targets_share_the_forward(count, resnet, x, passes):
    cea.NormGrad(resnet, LAYERS).attribute_per_target(x, list(range(count)))
    assert len(passes.forwards) == 1
    assert len(passes.backwards) <= count


def test_meta_saliency_is_its_parts(resnet, x, passes):
    cea.MetaSaliency(cea.NormGrad(resnet, "layer4")).attribute(x[:1], target=3)
    assert (len(passes.forwards), len(passes.backwards)) == (2, 2)


@pytest.mark.parametrize("make", [cea.GuidedBackprop, cea.RectGrad], ids=lambda make: make.__name__)
def test_gated_rules_are_one_forward_and_one_backward(make, resnet, x):
    ours, floor = operations(lambda: make(resnet).attribute(x, target=3)), operations(gradients(resnet, x, [None]))
    assert ours["convolution"] == floor["convolution"]
    assert ours["convolution_backward"] == floor["convolution_backward"]
    assert sum(ours.values()) - sum(floor.values()) <= (7 if make is cea.RectGrad else 2) * floor["convolution"]


RULES = {
    "excitation": (cea.ExcitationBackprop, 2, 1, 10),
    "LRP, gamma infinite": (lambda m: cea.LRP(m, gamma=float("inf")), 2, 1, 10),
    "LRP-0": (cea.LRP, 1, 1, 19),
    "LRP-gamma": (lambda m: cea.LRP(m, gamma=0.25), 2, 2, 37),  # less where R meets no negative output
}


@pytest.mark.parametrize("label", RULES)
def test_rules_reuse_the_forward_s_products(label, resnet, x):
    """Convolutions of the forward and of the backward pass, by those of a gradient, and all else by convolution."""
    make, forwards, backwards, others = RULES[label]
    method = make(resnet)
    ours, floor = operations(lambda: method.attribute(x, target=3)), operations(gradients(resnet, x, [None]))
    assert ours["convolution"] <= forwards * floor["convolution"]
    assert ours["convolution_backward"] <= backwards * floor["convolution_backward"]
    added = sum(ours.values()) - sum(floor.values())
    print(f"{label}: {added / floor['convolution']:.1f} operations more for each convolution")
    assert added <= others * floor["convolution"]


def test_full_grad_reads_each_bias_s_part_once(resnet, x):
    method = cea.FullGrad(resnet)
    places = len(method.plan(to_input=False))
    ours, floor = operations(lambda: method.attribute(x, target=3)), operations(gradients(resnet, x, [None]))
    print(f"FullGrad: {(sum(ours.values()) - sum(floor.values())) / places:.1f} operations more for each bias")
    assert sum(ours.values()) - sum(floor.values()) <= 18 * places
    assert ours["upsample_bilinear2d"] == 5  # resolutions


def test_pixel_removal_runs_only_images_whose_decision_stands(resnet, x, passes):
    maps = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    found = metrics.pixel_removal(resnet, x, maps, step=256)
    steps = (found.pixels + 255) // 256
    assert sum(passes.forwards) == len(x) + int(steps.sum())  # one to know the decisions, then each until its flip


NO_WAIT = {
    **METHODS,
    "FullGrad": lambda m, layers: cea.FullGrad(m),
    "aggregated activity": lambda m, layers: cea.AggregatedActivity(m, layers),
    "cumulative GradCAM": lambda m, layers: cea.CumulativeGradCAM(m, layers),
    "biases": lambda m, layers: cea.BiasAttribution(m, ["layer1.0.bn2", "layer4.1.bn2"]),
    "guided": lambda m, layers: cea.GuidedBackprop(m, layers),
    "deconvolution": lambda m, layers: cea.Deconvolution(m, layers),
    "RectGrad": lambda m, layers: cea.RectGrad(m, layers),
    "depthwise": lambda m, layers: cea.ExtractAggregate(m, layers, extract="depthwise3x3", aggregate="max_abs"),
    "layer's own": lambda m, layers: cea.NormGrad(m, ["layer2.0.conv1", "layer4.1.conv2"], virtual_identity=False),
    "RectGrad mod": lambda m, layers: cea.RectGradMod(m),
    "excitation": lambda m, layers: cea.ExcitationBackprop(m, layers),
    "excitation, nothing lost": lambda m, layers: cea.ExcitationBackprop(m, sums="positive", lost="spread"),
    "contrastive": lambda m, layers: cea.ContrastiveExcitationBackprop(m, layers),
    "LRP-0": lambda m, layers: cea.LRP(m),
    "LRP-gamma": lambda m, layers: cea.LRP(m, layers, gamma=0.25),
    "LRP, gamma infinite": lambda m, layers: cea.LRP(m, gamma=float("inf")),
    "flat": lambda m, layers: cea.LRP(m, rules=EpsilonPlusFlat()),
    "alpha-beta": lambda m, layers: cea.LRP(m, rules=EpsilonAlpha2Beta1()),
    "box": lambda m, layers: cea.LRP(m, rules=EpsilonGammaBox()),
    "balanced": lambda m, layers: cea.LibraGrad(cea.LinearApproximation(m, layers)),
    "guided GradCAM": lambda m, layers: cea.GuidedGradCAM(m, "layer4"),
    "combination": lambda m, layers: cea.LayerCombination(cea.NormGrad(m, layers)),
    "meta-saliency": lambda m, layers: cea.MetaSaliency(cea.NormGrad(m, "layer4")),
    "meta-saliency, one by one": lambda m, layers: cea.MetaSaliency(cea.NormGrad(m, "layer4"), vectorized=False),
    "RefineCAM": cea.RefineCAM,
    "finer": lambda m, layers: cea.FinerCAM(cea.GradCAM(m, layers)),
}


class Arrivals(TorchFunctionMode):
    """Notes what comes out of the host's memory, for which it would wait for a GPU: `torch.tensor(1.0, device=)`."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        given = tensors_in((args, kwargs or {}))
        from_host = any(t.device.type == "cpu" and t.ndim for t in given)
        makes = getattr(func, "__name__", "") in ("tensor", "as_tensor", "new_tensor") and not given[1:]
        if isinstance(output, torch.Tensor) and output.device.type == "meta" and (from_host or makes):
            self.found.append(func)
        return output


@pytest.mark.parametrize("label", NO_WAIT)
def test_no_method_waits_for_the_device(label):
    """On the meta device there are no numbers, so whoever asks for one (`.item()`, `if tensor:`, `.cpu()`) fails."""
    with torch.device("meta"):
        model = torchvision.models.resnet18(weights=None).eval()
        x, target = torch.empty(2, 3, 64, 64), torch.empty(2, dtype=torch.long)
    method = NO_WAIT[label](model, LAYERS)
    try:
        with Arrivals() as arrivals:
            maps = method.attribute(x, target=target)
    except NotImplementedError as error:
        if "histc" not in str(error):
            raise
        pytest.skip("this torch knows no histc on the meta device")
    assert all(m.device.type == "meta" for m in (maps if isinstance(maps, list) else [maps]))
    assert arrivals.found == []


def test_the_meta_device_tells_who_waits():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.empty(2, device="meta").sum().item()
    for ask in (lambda: torch.tensor(1.0, device="meta"), lambda: torch.ones(2).to("meta")):
        with Arrivals() as arrivals:
            ask()
        assert arrivals.found


@needs_indexing
def test_an_index_that_is_sent_there_is_seen():
    with Arrivals() as arrivals:
        torch.empty(2, device="meta")[torch.arange(2)]
    assert arrivals.found


WHOLE = {
    "FullGrad": cea.FullGrad,
    "aggregated activity": cea.AggregatedActivity,
    "guided": cea.GuidedBackprop,
    "RectGrad": cea.RectGrad,
    "excitation": cea.ExcitationBackprop,
    "contrastive": cea.ContrastiveExcitationBackprop,
    "LRP": cea.LRP,
    "real layer": lambda m: cea.NormGrad(m, "layer4.0.conv1", virtual_identity=False),
    "meta-saliency": lambda m: cea.MetaSaliency(cea.NormGrad(m, "layer4")),
}
CELLS = [(extract, how) for extract in EXTRACTS for how in AGGREGATES]


@pytest.mark.parametrize("label", [*METHODS, *WHOLE, *(f"{extract}:{how}" for extract, how in CELLS)])
def test_nothing_waits_for_the_garbage_collector(label, resnet, x):
    """What a call needed is free when it returns, or the next image's passes would have to ask for fresh memory."""
    if label in METHODS:
        method = METHODS[label](resnet, LAYERS)
    elif label in WHOLE:
        method = WHOLE[label](resnet)
    else:
        method = cea.ExtractAggregate(resnet, LAYERS, **dict(zip(("extract", "aggregate"), label.split(":"))))
    method.attribute(x, target=3)
    gc.freeze()  # what is there already is not looked at
    gc.disable()
    try:
        method.attribute(x, target=3)
        assert [type(o) for o in gc.get_objects() if isinstance(o, torch.Tensor)] == []
    finally:
        gc.enable()
        gc.unfreeze()
