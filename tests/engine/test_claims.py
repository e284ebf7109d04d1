"""Explaining a model in one thread, and what other threads do meanwhile."""

import copy
import threading

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.bias_study import biases_removed
from tests.conftest import SmallNet
from tests.faults import snapshot
from tests.networks import Attending

IN_ANOTHER = "in another thread"


def elsewhere(run):
    """What it gives, or raises, in a thread of its own."""
    results = []

    def work():
        try:
            results.append(run())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert results, "the thread hangs"
    return results[0]


def meanwhile(module, run):
    """Does something in another thread once, when the module has run; gives the list that its result will be in."""
    results = []

    def hook(*_):
        handle.remove()
        results.append(elsewhere(run))

    handle = module.register_forward_hook(hook)
    return results


def network(seed=0):
    torch.manual_seed(seed)
    return SmallNet().eval()


def train(net, x):
    net.zero_grad()
    net(x).square().sum().backward()
    return [p.grad.clone() for p in net.parameters()]


METHODS = {
    "NormGrad": lambda net: cea.NormGrad(net, net.conv3),
    "function": lambda net: cea.NormGrad(lambda t: net(t), net.conv3),
    "LRP": lambda net: cea.LRP(net, net.conv1),
    "RectGrad": lambda net: cea.RectGrad(net),
    "FullGrad": lambda net: cea.FullGrad(net),
    "MetaSaliency": lambda net: cea.MetaSaliency(cea.NormGrad(net, net.conv3), lr=0.1, vectorized=False),
}
PAIRS = [*zip(METHODS, METHODS), *zip(METHODS, [*METHODS][1:]), ("MetaSaliency", "NormGrad")]


@pytest.mark.parametrize("method", METHODS)
def test_another_model_is_trained_meanwhile(method, images):
    net, other = network(), network(1).train()
    alone = METHODS[method](net).attribute(images, target=1)
    gradients = train(copy.deepcopy(other), images)
    found = meanwhile(net.conv2, lambda: train(other, images))
    assert torch.equal(METHODS[method](net).attribute(images, target=1), alone)
    assert all(torch.equal(g, expected) for g, expected in zip(found[0], gradients, strict=True))


@pytest.mark.parametrize(("method", "second"), PAIRS)
def test_two_models_are_explained_in_two_threads(method, second, images):
    net, other = network(), network(1)
    alone, others = METHODS[method](net).attribute(images, 1), METHODS[second](other).attribute(images, 2)
    before = snapshot(other, images)
    found = meanwhile(net.conv2, lambda: METHODS[second](other).attribute(images, 2))
    assert torch.equal(METHODS[method](net).attribute(images, 1), alone)
    assert torch.equal(found[0], others)
    assert snapshot(other, images) == before


@pytest.mark.parametrize(("method", "second"), PAIRS)
def test_one_model_is_explained_in_two_threads(method, second, images):
    """The second is told so, and the first is not disturbed."""
    net = network()
    alone, before = METHODS[method](net).attribute(images, 1), snapshot(net, images)
    found = meanwhile(net.conv2, lambda: METHODS[second](net).attribute(images, 2))
    assert torch.equal(METHODS[method](net).attribute(images, 1), alone)
    assert isinstance(found[0], ValueError)
    assert IN_ANOTHER in str(found[0])
    assert "copy" in str(found[0])
    after = snapshot(net, images)
    assert {k: v for k, v in after.items() if k != "hooks"} == {k: v for k, v in before.items() if k != "hooks"}
    assert torch.equal(elsewhere(lambda: METHODS[method](net).attribute(images, 1)), alone)


@pytest.mark.parametrize("shared", ["module", "parameter"])
def test_two_models_that_share_a_part_are_one(shared, images):
    net, other = network(), network(1)
    if shared == "module":
        other.conv2 = net.conv2
    else:
        other.conv2.weight = net.conv2.weight
    alone = cea.NormGrad(net, "conv3").attribute(images, 1)
    found = meanwhile(net.conv1, lambda: cea.NormGrad(other, "conv3").attribute(images, 1))
    assert torch.equal(cea.NormGrad(net, "conv3").attribute(images, 1), alone)
    assert IN_ANOTHER in str(found[0])


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_evaluated_meanwhile(method, images):
    """Without gradients it may be, and what it gives there is not taken for the explained forward's."""
    net, others = network(), torch.randn(2, 3, 12, 12)
    alone, scores = METHODS[method](net).attribute(images, 1), net(others).detach()
    found = meanwhile(net.conv2, lambda: torch.no_grad()(net)(others))
    assert torch.equal(METHODS[method](net).attribute(images, 1), alone)
    assert torch.equal(found[0], scores)


@pytest.mark.parametrize("whole", [True, False])
def test_the_model_is_trained_meanwhile(whole, images):
    """Its gradients would be lost, so that thread is told; also where it trains another model with a part of this."""
    net = network()
    trained = net if whole else nn.Sequential(nn.Identity(), net.conv1)
    alone = cea.NormGrad(net, "conv3").attribute(images, 1)
    found = meanwhile(net.conv2, lambda: trained(images))
    assert torch.equal(cea.NormGrad(net, "conv3").attribute(images, 1), alone)
    assert isinstance(found[0], ValueError)
    assert "frozen" in str(found[0])
    assert len(train(net, images)) == 10


def test_biases_are_removed_in_another_thread(images):
    net = network()
    with biases_removed(net):
        assert IN_ANOTHER in str(elsewhere(lambda: cea.NormGrad(net, "conv3").attribute(images, 1)))
        assert IN_ANOTHER in str(elsewhere(lambda: biases_removed(net).__enter__()))
        cea.NormGrad(net, "conv3").attribute(images, 1)
    alone = cea.NormGrad(net, "conv3").attribute(images, 1)
    assert torch.equal(elsewhere(lambda: cea.NormGrad(net, "conv3").attribute(images, 1)), alone)


class Branches(nn.Module):
    """Its forward starts a thread for each branch."""

    def __init__(self, threads):
        super().__init__()
        self.threads = threads
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        run = elsewhere if self.threads else lambda branch: branch()
        found = [run(lambda b=b: b(x)) for b in self.branches]
        return self.head(torch.cat(found, 1).mean((2, 3)))


def test_a_forward_that_starts_threads(images):
    net = Branches(threads=True).eval()
    serial = copy.deepcopy(net)
    serial.threads = False
    layers = ["branches.0", "branches.1"]
    expected = cea.NormGrad(serial, layers).attribute(images, 1)
    for got, right in zip(cea.NormGrad(net, layers).attribute(images, 1), expected, strict=True):
        torch.testing.assert_close(got, right)
    assert all(p.requires_grad for p in net.parameters())


def test_a_function_that_runs_the_model_in_a_thread(images):
    net = network()
    method = cea.NormGrad(lambda x: elsewhere(lambda: net(x)), net.conv3)
    torch.testing.assert_close(method.attribute(images, 1), cea.NormGrad(net, "conv3").attribute(images, 1))
    net.bn.train()
    with pytest.raises(Exception, match="train mode"):
        cea.NormGrad(lambda x: _raised(elsewhere(lambda: net(x))), net.conv3).attribute(images, 1)


def _raised(result):
    if isinstance(result, Exception):
        raise result
    return result


def replica(module):
    """What DataParallel runs in a thread of its own: a copy with the same hooks, whose parameters are no leaves."""
    made = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        made._modules[name] = replica(child)
    for name, p in module._parameters.items():
        setattr(made, name, None if p is None else p.clone())
    return made


def test_replicas_in_other_threads_belong_to_the_call(images):
    class Parallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return _raised(elsewhere(lambda: replica(self.module)(x)))

    net = network()
    expected = cea.NormGrad(net, "conv3").attribute(images, 1)
    got = cea.NormGrad(Parallel(net).eval(), net.conv3).attribute(images, 1)
    torch.testing.assert_close(got, expected)


def test_a_hook_that_asks_for_a_map_in_the_same_thread(images):
    net = network()
    alone, found = cea.NormGrad(net, "conv3").attribute(images, 1), []

    def ask(*_):
        if not found:
            found.append(None)
            found[0] = cea.NormGrad(net, "conv1").attribute(images, 2)

    net.conv2.register_forward_hook(ask)
    assert torch.equal(cea.NormGrad(net, "conv3").attribute(images, 1), alone)
    assert torch.equal(found[0], cea.NormGrad(net, "conv1").attribute(images, 2))


@pytest.mark.parametrize("first_ends_first", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_switches_of_the_process_are_as_before_the_first(first_ends_first, before, images):
    """The fused kernels of attention and the random state, whoever of two threads is done first."""
    nets = [Attending().eval() for _ in range(2)]
    begun, ended = [threading.Event() for _ in nets], [threading.Event() for _ in nets]
    waits_for = [begun[1], ended[0]] if first_ends_first else [ended[1], begun[0]]

    def pause(i):
        torch.rand(3 + i)
        begun[i].set()
        assert waits_for[i].wait(60)
        assert not torch.backends.mha.get_fastpath_enabled()

    def explain(i):
        try:
            return cea.NormGrad(nets[i], "encoder").attribute(images, 1)
        finally:
            ended[i].set()

    for i, net in enumerate(nets):
        net.head.register_forward_hook(lambda *_, i=i: pause(i))
    torch.backends.mha.set_fastpath_enabled(before)
    random, maps = torch.get_rng_state(), []
    try:
        first = threading.Thread(target=lambda: maps.append(explain(0)))
        first.start()
        assert begun[0].wait(60)
        maps.append(elsewhere(lambda: explain(1)))
        first.join(60)
        assert all(isinstance(m, torch.Tensor) for m in maps)
        assert len(maps) == 2
        assert torch.backends.mha.get_fastpath_enabled() is before
        assert torch.equal(torch.get_rng_state(), random)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_many_threads_with_models_of_their_own(images):
    """Without any order among them."""
    nets = [network(seed) for seed in range(4)]
    methods = [METHODS[name](net) for name, net in zip(["NormGrad", "LRP", "MetaSaliency", "RectGrad"], nets)]
    alone = [method.attribute(images, 1) for method in methods]
    wrong = []

    def work(i):
        wrong.extend(i for _ in range(10) if not torch.equal(methods[i].attribute(images, 1), alone[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(p.requires_grad for net in nets for p in net.parameters())
    assert not nn.modules.module._global_forward_pre_hooks
