"""A model that is prepared once: the same maps, the same model, and whatever changes between calls is noticed."""

import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules import module as global_hooks

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine import session
from captum_extract_aggregate._engine.session import open_session, session_of
from tests.conftest import SmallNet
from tests.faults import InjectedError, snapshot

METHODS = {
    "NormGrad": lambda net: cea.NormGrad(net, ["conv1", "conv3"]),
    "LRP": lambda net: cea.LRP(net, ["conv1"]),
    "RectGrad": lambda net: cea.RectGrad(net),
    "FullGrad": lambda net: cea.FullGrad(net),
    "meta-saliency": lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), lr=0.1),
    "through a function": lambda net: cea.GradCAM(lambda x: net(x), net.conv3),
}


def maps(method, x):
    found = method.attribute(x, target=1)
    return found if isinstance(found, list) else [found]


def network():
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n", [1, 2])
def test_maps_are_the_same_and_the_model_is_as_before_after_every_call(name, n):
    net, x = network(), torch.randn(n, 3, 8, 8)
    net.conv1.weight.requires_grad_(False)
    method = METHODS[name](net)
    expected, before = maps(method, x), snapshot(net, x)
    with cea.prepared(net):
        for _ in range(3):
            assert all(torch.equal(a, b) for a, b in zip(maps(method, x), expected, strict=True))
            assert snapshot(net, x) == before
    assert session_of(net) is None


CHANGES = {
    "weights in place": lambda net: net.conv1.weight.data.mul_(2),
    "a step": lambda net: [p.data.add_(0.1) for p in net.parameters()],
    "another parameter": lambda net: setattr(net.fc, "weight", nn.Parameter(net.fc.weight.detach() * 3)),
    "another layer": lambda net: setattr(net, "conv2", nn.Sequential(net.conv2, nn.Hardtanh())),
    "a frozen parameter": lambda net: net.conv3.weight.requires_grad_(False),
    "all of it trained": lambda net: net.requires_grad_(True),
    "a hook": lambda net: net.conv2.register_forward_hook(lambda m, a, out: out * 2),
}


@settings(max_examples=10)
@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=3))
def test_a_model_that_changes_between_calls(changes):
    """Each call gives what it gives without a session."""
    net, x = network(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    method = cea.NormGrad(net, ["conv1", "bn"])
    with cea.prepared(net):
        for name in ["", *changes]:
            CHANGES.get(name, lambda net: None)(net)
            got, flags = maps(method, x), [p.requires_grad for p in net.parameters()]
            hidden, session._OPEN[:] = session._OPEN[:], []
            expected = maps(method, x)
            session._OPEN[:] = hidden
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
            assert flags == [p.requires_grad for p in net.parameters()]


def test_train_mode_is_noticed():
    net, x = network(), torch.randn(2, 3, 8, 8)
    method = cea.NormGrad(net, "conv3")
    with cea.prepared(net):
        method.attribute(x, target=1)
        net.train()
        with pytest.raises(ValueError, match="train mode"):
            method.attribute(x, target=1)
        net.eval()
        method.attribute(x, target=1)
        net.extra = nn.BatchNorm2d(3)  # of which nothing runs, but it is in train mode
        with pytest.raises(ValueError, match="train mode"):
            method.attribute(x, target=1)


def test_a_model_is_looked_at_once_and_modules_are_not_watched():
    net, x = network(), torch.randn(1, 3, 8, 8)
    method, watched = cea.NormGrad(net, "conv3"), []
    net_forward = net.forward
    net.forward = lambda t: watched.append(len(global_hooks._global_forward_pre_hooks)) or net_forward(t)
    with cea.prepared(net):
        for _ in range(4):
            method.attribute(x, target=1)
        assert session_of(net).looks == 1
        assert watched == ([1, 0, 0, 0] if threading.active_count() == 1 else [1] * 4)
        handle = net.conv1.register_forward_hook(lambda *_: None)  # which may do anything
        method.attribute(x, target=1)
        handle.remove()
        assert watched[-1] == 1
        net.conv1.train()
        method.attribute(x, target=1)
        assert (session_of(net).looks, watched[-1]) == (2, 1)


class Hides(nn.Module):
    """Runs a module that it does not hold."""

    def __init__(self, part):
        super().__init__()
        self.parts = [part]

    def forward(self, x):
        return self.parts[0](x)


def test_modules_that_the_model_does_not_hold_are_prepared_at_every_call():
    net, x = network(), torch.randn(1, 3, 8, 8)
    outer = Hides(net)
    method = cea.NormGrad(outer, net.conv3)
    expected = method.attribute(x, target=1)
    with cea.prepared(outer):
        for _ in range(3):
            assert torch.equal(method.attribute(x, target=1), expected)
        net.bn.train()
        with pytest.raises(ValueError, match="train mode"):
            method.attribute(x, target=1)


@pytest.mark.parametrize("error", [InjectedError, KeyboardInterrupt])
def test_what_interrupts_a_call_or_a_session_leaves_nothing(error):
    net, x = network(), torch.randn(1, 3, 8, 8)
    method, before = cea.NormGrad(net, "conv3"), snapshot(net, x)
    expected = method.attribute(x, target=1)

    def fail(*_):
        handle.remove()
        raise error

    def explain():
        nonlocal handle
        with cea.prepared(net):
            method.attribute(x, target=1)
            handle = net.conv2.register_forward_hook(fail)
            method.attribute(x, target=1)

    handle = None
    with pytest.raises(error):
        explain()
    assert session._OPEN == []
    assert snapshot(net, x) == before
    assert torch.equal(method.attribute(x, target=1), expected)


def test_a_session_is_of_one_thread():
    """Another thread explains another model, and is told if it wants this one while it is being explained."""
    net, other, x = network(), network(), torch.randn(1, 3, 8, 8)
    method, others, found = cea.NormGrad(net, "conv3"), cea.NormGrad(other, "conv3"), []
    expected = method.attribute(x, target=1)

    def elsewhere():
        found.append(session_of(net))
        found.append(others.attribute(x, target=1))
        try:
            method.attribute(x, target=1)
        except ValueError as error:
            found.append(str(error))

    def start(*_):
        handle.remove()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(60)

    with cea.prepared(net):
        method.attribute(x, target=1)
        handle = net.conv2.register_forward_hook(start)
        assert torch.equal(method.attribute(x, target=1), expected)
    assert found[0] is None
    assert torch.equal(found[1], expected)
    assert "in another thread" in found[2]


def test_sessions_within_each_other_and_of_two_models():
    net, other, x = network(), network(), torch.randn(1, 3, 8, 8)
    with cea.prepared(net), cea.prepared(other), Undo() as undo, undo:
        outer = session_of(net)
        open_session(undo, net.forward)
        assert session_of(net) is outer
        assert session_of(other) is not outer
        cea.GradCAM(net, "conv3").attribute(x, target=1)
        assert (session_of(net).looks, session_of(other).looks) == (1, 0)
    assert session._OPEN == []


def test_a_session_does_not_keep_the_model():
    net, x = network(), torch.randn(1, 3, 8, 8)
    with cea.prepared(net):
        cea.GradCAM(net, "conv3").attribute(x, target=1)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_wrong_uses():
    for wrong in (3, lambda x: x, None):
        with pytest.raises(TypeError, match="model is a"), cea.prepared(wrong):
            pass
