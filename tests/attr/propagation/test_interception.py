"""Operations are seen however they are called; what cannot be seen, or has no rule, is an error."""

import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    Flat,
)
from tests.attr.propagation.cases import METHODS, TARGET, Variant, made, network
from tests.conftest import SmallNet, relative_error


class Spellings(nn.Module):
    """One network in many spellings."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def relu(self, x):
        return {
            "module": nn.ReLU(),
            "matmul": nn.ReLU(),
            "in-place module": nn.ReLU(inplace=True),
            "torch": torch.relu,
            "torch in place": torch.relu_,
            "method": lambda t: t.relu(),
            "method in place": lambda t: t.relu_(),
            "functional in place": lambda t: F.relu(t, inplace=True),
            "by keywords": lambda t: F.relu(input=t, inplace=True),
            "clamp": lambda t: t.clamp(min=0),
            "clamp_min_": lambda t: t.clamp_min_(0),
            "threshold": lambda t: F.threshold(t, 0, 0),
            "hardtanh": lambda t: F.hardtanh(t, 0, 1e9),
            "leaky": lambda t: F.leaky_relu(t, 0.0),
        }[self.how](x)

    def forward(self, x):
        y = self.relu(self.conv1(x))
        z = self.conv2(y)
        if "in place" in self.how:
            z += y
        else:
            z = torch.add(z, y) if self.how == "torch" else z.add_(y) if self.how == "method in place" else z + y
        z = self.relu(z)
        pooled = z.mean((2, 3)) if "torch" in self.how else F.adaptive_avg_pool2d(z, 1).flatten(1)
        if self.how == "matmul":
            return pooled @ self.head.weight.T + self.head.bias
        return self.head(pooled)


SPELLINGS = [
    "module", "in-place module", "torch", "torch in place", "method", "method in place", "functional in place",
    "by keywords", "clamp", "clamp_min_", "threshold", "hardtanh", "leaky",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_spelling_is_seen(method):
    torch.manual_seed(0)
    reference_net = Spellings("module").double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = METHODS[method](reference_net).attribute(x, target=TARGET)
    # With a finite gamma, a product and then a sum are shared out one after the other.
    for how in SPELLINGS + (["matmul"] if method != "lrp" else []):
        net = Spellings(how).double()
        net.load_state_dict(reference_net.state_dict())
        tolerance = 1e-6 if how == "matmul" else 1e-12  # epsilon acts twice
        assert relative_error(METHODS[method](net).attribute(x, target=TARGET), expected) < tolerance, how
        at = METHODS[method](net, net.conv2).attribute(x, target=TARGET)
        at_reference = METHODS[method](reference_net, reference_net.conv2).attribute(x, target=TARGET)
        assert relative_error(at, at_reference) < tolerance, how


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


RNN_OF_RELUS = nn.RNN(4, 4, batch_first=True, nonlinearity="relu")


SCRIPTED = made(torch.jit.script(nn.ReLU()))


NOT_SEEN = {
    "an unknown function": (made(torch.erfc), "no rule for torch.erfc"),
    "where": (made(lambda y: torch.where(y > 0, y, 0.0)), "no rule for torch.where"),
    "scripted": (SCRIPTED, "could not see"),
    "custom function": (made(Doubled.apply), "DoubledBackward, whose call it could not see"),
}


GUIDED_ONLY = {
    "rnn": (made(lambda y: RNN_OF_RELUS(y.flatten(2).mT)[0].mT[..., None]), "ReLUs run inside"),
    "clamp": (made(lambda y: y.clamp(0.5, 2)), "from 0.5 to 2"),
    "hardtanh": (made(F.hardtanh), "from -1.0 to 1.0"),
}


RELEVANCE_ONLY = {
    "score": (nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Sigmoid()), "explain a logit"),
    "weights": (
        made(lambda y: F.conv2d(y, y[:1, :, :3, :3].expand(4, -1, -1, -1))),
        "whose weights depend on the input",
    ),
    "a power": (made(lambda y: y.pow(2)), "a gate, a softmax or attention"),
}


# What LRP has rules for, and excitation backprop has none.
ATTENTION = {
    "softmax": (made(lambda y: y.softmax(1)), "explain a logit"),
    "product": (made(lambda y: y * y.flip(1)), "neither is a gate"),
    "attention": (made(lambda y: y @ y.mT), "attention"),
    "quotient": (made(lambda y: y / y.flip(1)), "tensors that depend on the input"),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_no_rule_knows_is_an_error(method):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gated = method in ("guided", "deconvolution", "rectgrad", "rectgrad mod")
    attention = ATTENTION if method in ("excitation", "contrastive") else {}
    for case, (net, message) in {**NOT_SEEN, **(GUIDED_ONLY if gated else {**RELEVANCE_ONLY, **attention})}.items():
        with pytest.raises(ValueError, match=message):
            METHODS[method](net).attribute(x, target=0)
        fine = SmallNet().eval()  # nothing is left behind
        assert torch.isfinite(METHODS[method](fine).attribute(x, target=0)).all(), case
    for net, _ in ({**RELEVANCE_ONLY, **ATTENTION} if gated else {} if attention else ATTENTION).values():
        METHODS[method](net).attribute(x, target=0)


def test_vision_transformers_are_errors_of_excitation_backprop_that_name_attention():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3).eval()
    with pytest.raises(ValueError, match="attention"):
        cea.ExcitationBackprop(vit).attribute(torch.randn(1, 3, 32, 32), target=0)
    x = torch.randn(1, 3, 32, 32)
    nn.init.normal_(vit.heads.head.weight)
    gradient = captum.attr.Saliency(vit).attribute(x, target=0, abs=False)
    assert relative_error(cea.GuidedBackprop(vit).attribute(x, target=0), gradient) < 1e-6


def test_in_place_on_what_a_rule_needs():
    """A convolution's input that is overwritten afterwards: an error, as in training, and not a wrong map."""

    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            y = self.conv1(x)
            z = self.conv2(y)
            y += z
            return y.mean((2, 3))

    net = Overwrites().eval()
    with pytest.raises(ValueError, match="overwrites a tensor in place"):
        cea.ExcitationBackprop(net).attribute(torch.randn(1, 3, 8, 8), target=0)


def _into_a_constant(net, y):
    y, z = y.relu(), net.conv2(y).relu()
    b = torch.zeros_like(y)
    b.narrow(1, 0, 4).add_(z)
    return b + y


def _dropout_in_place(net, y):
    y = net.drop(y)
    y.relu_()
    return net.conv2(y)


def _same_size_pool(net, y):
    z = F.adaptive_avg_pool2d(y, y.shape[-1])
    z.relu_()
    return net.conv2(z)


EQUAL = {
    "a sum into a view of a constant": (
        _into_a_constant,
        lambda n, y: torch.zeros_like(y) + n.conv2(y).relu() + y.relu(),
    ),
    "dropout, then in place": (_dropout_in_place, lambda n, y: n.conv2(y.relu())),
    "a pool of its own size, then in place": (_same_size_pool, lambda n, y: n.conv2(y.relu())),
    "linalg": (
        lambda n, y: torch.linalg.matmul(y.relu().movedim(1, -1), n.head.weight.new_ones(4, 4)).movedim(-1, 1),
        lambda n, y: (y.relu().movedim(1, -1) @ n.head.weight.new_ones(4, 4)).movedim(-1, 1),
    ),
    "max over a dimension": (
        lambda n, y: y.max(1, keepdim=True)[0].relu() + y,
        lambda n, y: y.amax(1, True).relu() + y,
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", EQUAL)
def test_equal_networks(method, case):
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    got, expected = (METHODS[method](Variant(part).double().eval()).attribute(x, target=1) for part in EQUAL[case])
    assert relative_error(got, expected) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_returns_its_input(method):
    """The tap lies on a tensor that others use under another name."""

    def aliased(net, y):
        return net.conv2(F.relu(net.drop(y))) + F.relu(y)

    net = Variant(aliased).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    got, expected = (METHODS[method](net, layer).attribute(x, target=1) for layer in ("drop", "conv1"))
    if "lrp" not in method and "ex" not in method and "contrastive" not in method:
        assert relative_error(got, expected) < 1e-10


REFUSED = {
    "a mask": (lambda n, y: y * (y > 0), "a rectifier in disguise", "gated"),
    "a masked assignment": (lambda n, y: _assigned(y), "a rectifier in disguise", "gated"),
    "softplus": (lambda n, y: F.softplus(y), "softplus", "relevance"),
    "maximum with a constant": (lambda n, y: torch.maximum(y, torch.zeros(())), "a tensor and a constant", "both"),
    "a constant over the input": (
        lambda n, y: torch.ones(1) / (y.relu() + 1),
        "of a constant by what depends",
        "relevance",
    ),
    "division with rounding": (lambda n, y: torch.div(y, 0.1, rounding_mode="trunc"), "rounding", "relevance"),
    "batch statistics": (
        lambda n, y: F.batch_norm(y, None, None, training=True),
        "statistics of the batch",
        "both",
    ),
}


def _assigned(y):
    y = y.clone()
    y[y < 0] = 0
    return y


@pytest.mark.parametrize("method", METHODS)
def test_refused_networks(method):
    family = "gated" if method in ("guided", "deconvolution", "rectgrad", "rectgrad mod") else "relevance"
    for part, message, whose in REFUSED.values():
        if whose in (family, "both"):
            with pytest.raises(ValueError, match=message):
                METHODS[method](Variant(part).eval()).attribute(torch.randn(2, 3, 6, 6), target=1)


def test_threads_of_others_do_not_matter():
    import threading

    net, other = SmallNet().eval(), SmallNet().eval()
    x = torch.randn(1, 3, 12, 12)
    method = cea.LRP(net, rules={nn.Conv2d: Flat()})
    expected = method.attribute(x, target=1)
    stop, failures = threading.Event(), []

    def run():
        while not stop.is_set():
            try:
                with torch.no_grad():
                    other(x)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(torch.equal(method.attribute(x, target=1), expected) for _ in range(40))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_modules_that_ask_for_a_map_are_not_part_of_the_model():
    """Their rules are not its rules, nor do errors speak of them."""

    class Explainer(nn.Module):
        def forward(self, x):
            return cea.LRP(net, rules={Explainer: Flat()}).attribute(x, target=1)

    class Unknown(nn.Module):
        def forward(self, x):
            return torch.sin(x).flatten(1)

    net, x = SmallNet().eval(), torch.randn(1, 3, 12, 12)
    assert torch.equal(Explainer()(x), cea.LRP(net).attribute(x, target=1))
    outer = Explainer()
    with pytest.raises(ValueError, match="in which no convolution"):
        cea.LRP(net, rules={outer: Flat()}).attribute(x, target=1)
    net = nn.Sequential(Unknown())
    with pytest.raises(ValueError, match="called in '0'"):
        nn.Sequential(nn.Sequential(Explainer()))(x)


ALLOWED = torch.tensor([[True, True, False]])


def _ruled_out(q):
    q = q.clone()
    q[~ALLOWED.expand_as(q)] = -math.inf
    return q


ACTION_MASKS = {
    "masked_fill": lambda q: q.masked_fill(~ALLOWED, -math.inf),
    "in place": lambda q: q.masked_fill_(~ALLOWED, -1e9),
    "where": lambda q: torch.where(ALLOWED, q, torch.tensor(-1e8)),
    "where with a number": lambda q: torch.where(ALLOWED, q, -math.inf),
    "where, the other way": lambda q: torch.where(~ALLOWED, torch.finfo(q.dtype).min, q),
    "method": lambda q: q.where(ALLOWED, torch.tensor(-math.inf)),
    "added": lambda q: q + ALLOWED.float().log(),
    "added in place": lambda q: q.add_(ALLOWED.float().log()),
    "assigned": _ruled_out,
}


@pytest.mark.parametrize("method", METHODS)
def test_masked_actions(method):
    """The score of an allowed action is explained as without the mask; one that is ruled out has none to explain."""

    class Policy(nn.Module):
        def __init__(self, mask):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head, self.mask = nn.Linear(4, 8), nn.Linear(8, 3), mask

        def forward(self, x):
            return self.mask(self.head(self.body(x).relu()))

    x = torch.rand(2, 4)
    expected = METHODS[method](Policy(nn.Identity()).eval()).attribute(x, target=1)
    for name, mask in ACTION_MASKS.items():
        net = Policy(mask).eval()
        assert relative_error(METHODS[method](net).attribute(x, target=1), expected) < 1e-5, name
        if torch.isinf(net(x)).any():
            with pytest.raises(ValueError, match="score is NaN or infinite"):
                METHODS[method](net).attribute(x, target=2)
    for rectifier in (lambda q: torch.where(q > 0, q, torch.zeros(())), lambda q: q.masked_fill(q < 0, 0.0)):
        with pytest.raises(ValueError, match=r"rectifier in disguise.*overwrite=True"):
            METHODS[method](Policy(rectifier).eval()).attribute(x, target=1)


@pytest.mark.parametrize("method", METHODS)
def test_graphs_and_exported_programs(method):
    """They run PyTorch's operators themselves: the same map, or an error that says what to take instead."""
    net, x = network("resnet18"), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = METHODS[method](net).attribute(x, target=1)
    graph = torch.fx.symbolic_trace(net)
    assert relative_error(METHODS[method](nn.Sequential(graph)).attribute(x, target=1), expected) < 1e-9
    exported = torch.export.export(net, (x,)).module()
    gated = method in ("guided", "deconvolution", "rectgrad", "rectgrad mod")
    if not gated and any("native_batch_norm" in str(node.target) for node in exported.graph.nodes):  # torch < 2.5
        with pytest.raises(ValueError, match="take the module it was made from"):
            METHODS[method](exported).attribute(x, target=1)
    else:
        assert relative_error(METHODS[method](exported).attribute(x, target=1), expected) < 1e-9
    container = next(name for name, module in graph.named_modules() if name and list(module.children()))
    with pytest.raises(ValueError, match="containers do not run"):
        METHODS[method](graph, container).attribute(x, target=1)
