"""Interrupts at every line and at random times: the model and everything global are as before, or as they should be."""

import contextlib
import copy
import dis
import itertools
import os
import random
import signal
import sys
import threading
import time

import captum._utils.gradient
import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from captum_extract_aggregate._common import seeding, undo
from captum_extract_aggregate._common.undo import ProcessWide, Turn, Undo
from captum_extract_aggregate._engine import checkpoints, model_state
from captum_extract_aggregate.bias_study import bias_report, biases_removed, biases_scaled, decay_biases
from tests.conftest import SmallNet
from tests.faults import prepared, snapshot
from tests.networks import Attending

HOOKS = ["_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"]
HOOKS += ["_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"]
NAMES = ["conv1", "conv3"]


KEPT = [seeding._TORCH, model_state._FUSED_ATTENTION, model_state._STANCE]
# Held for a moment by each pass: taken for ever, all other threads would wait.
TURNS = [kept.turn for kept in KEPT] + [checkpoints._TURN]


class Watched:
    """A network and an example, all that may be done with them, and what must be as before."""

    def __init__(self):
        self.net, self.x = prepared()
        self.evaluated = copy.deepcopy(self.net).eval()
        self.attending = Attending().eval()
        self.by_captum = LayerGradCam(self.net, self.net.conv3)
        self.by_captum.layer = [self.net.conv1, self.net.conv3]
        self.map = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
        self.threads = torch.get_num_threads()

    def operations(self):
        net, x, bare = self.net, self.x, self.evaluated
        methods = {
            "NormGrad": cea.NormGrad(net, NAMES),
            "real layer": cea.NormGrad(net, "conv2", virtual_identity=False),
            "function": cea.LinearApproximation(lambda t: net(t), [net.conv3]),
            "input": cea.LayerGradient(net),
            "guided": cea.GuidedBackprop(net, "conv1"),
            "RectGrad": cea.RectGrad(net),
            "LRP": cea.LRP(net, NAMES),
            "contrastive": cea.ContrastiveExcitationBackprop(net, "conv1", contrast_layer="relu2"),
            "FullGrad": cea.FullGrad(net),
            "cumulative": cea.CumulativeGradCAM(net, NAMES),
            "combination": cea.LayerCombination(self.by_captum),
            "meta-saliency": cea.MetaSaliency(cea.NormGrad(net, "conv3"), lr=0.1, vectorized=False),
            "meta-saliency, together": cea.MetaSaliency(cea.NormGrad(bare, "conv3"), lr=0.1, vectorized=True),
            "meta-saliency, Captum": cea.MetaSaliency(LayerGradCam(net, net.conv3), lr=0.1),
            "attention": cea.NormGrad(self.attending, "encoder"),
            "at attention": cea.LeGrad(self.attending, "encoder"),
            "LRP through attention": cea.LRP(self.attending),
            "balanced": cea.LibraGrad(cea.NormGrad(self.attending, "encoder")),
            "balanced, Captum": cea.LibraGrad(LayerGradCam(net, net.conv3)),
            "competing": cea.ClassCompetition(cea.NormGrad(net, NAMES), rivals=1),
            "competing, Captum": cea.ClassCompetition(LayerGradCam(net, net.conv3), rivals=1),
        }
        do = {name: lambda m=m: m.attribute(x, target=1) for name, m in methods.items()}
        one = cea.NormGrad(net, "conv3")
        randomize = metrics.parameter_randomization
        return do | {
            "to the input": lambda: cea.NormGrad(net, "conv3").attribute(x, 1, attribute_to_layer_input=True),
            "several targets": lambda: cea.NormGrad(net, NAMES).attribute_per_target(x, [0, 1]),
            "together": lambda: cea.attribute_together({"a": methods["NormGrad"], "b": methods["LRP"]}, x, 1),
            "together, Captum": lambda: cea.attribute_together({"a": one, "b": LayerGradCam(net, net.conv1)}, x, 1),
            "completeness": lambda: cea.ActivityAttribution(net, "conv3").compute_convergence_delta(x, 1),
            "removed": lambda: self.within(biases_removed(net)),
            "scaled": lambda: self.within(biases_scaled(net, 0.5)),
            "report": lambda: bias_report(bare, [x], show_progress=False),
            "decay": lambda: decay_biases(bare, [x], steps=1, updates_per_step=1, show_progress=False),
            "cascading": lambda: randomize(one, net, x, target=1, layers=["fc", "bn"]),
            "independent": lambda: randomize(one, net, x, target=1, layers=NAMES, order="independent", init="reset"),
            "class sensitivity": lambda: metrics.class_sensitivity(one, x, net),
            "pixel removal": lambda: metrics.pixel_removal(net, x, self.map, step=32),
            "gap": lambda: metrics.completeness_gap(net, x, x, target=1),
            "default layers": lambda: cea.default_layers(net, x),
            "weights": lambda: cea.feature_spread_weights(net, NAMES, [x]),
        }

    def within(self, context):
        with context:
            self.net(self.x)

    def state(self):
        of_nets = [snapshot(net, self.x) for net in (self.net, self.evaluated, self.attending)]
        nets = (self.net, self.evaluated, self.attending)
        return {
            **{f"{i} {key}": value for i, found in enumerate(of_nets) for key, value in found.items()},
            "all hooks": [list(getattr(m, name)) for net in nets for m in net.modules() for name in HOOKS],
            "held": [[id(t) for t in m._parameters.values()] for net in nets for m in net.modules()],
            "attributes": [sorted(vars(m)) for net in nets for m in net.modules()],
            "attention": torch.backends.mha.get_fastpath_enabled(),
            "autocast": torch._C._is_any_autocast_enabled(),
            "functions": torch._C._is_torch_function_enabled(),
            "saved tensors": torch._C._autograd._saved_tensors_hooks_is_enabled(),
            "transforms": torch._C._functorch.peek_interpreter_stack() is None,
            "threads": torch.get_num_threads(),
            "layers": self.by_captum.layer == [self.net.conv1, self.net.conv3],
            "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGALRM)],
            "turns": [turn.is_free for turn in TURNS],
            "noted": [len(kept._found) for kept in KEPT],
            "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        }


def differing(before, after):
    return [key for key in before if before[key] != after[key]]


# --- At every line ---------------------------------------------------------------------------------------------------

# Our own code, and what it opens, registers and removes through PyTorch, Captum and contextlib.
OURS = os.path.dirname(cea.__file__)
OPENED = [
    contextlib,
    captum._utils.gradient,
    nn.modules.module,
    torch.utils.hooks,
    torch.autograd.grad_mode,
    torch.overrides,
    torch.random,
]
FILES = {module.__file__ for module in OPENED}


# In a comprehension's loop Python 3.12 and 3.13 let what a trace function raises pass by the `with` around it, but no
# true interrupt, as the tests of random times raise them.
AT_LOOPS = [dis.opmap[name] for name in ("FOR_ITER", "JUMP_BACKWARD") if name in dis.opmap]


def interrupted_at(run, at):
    """Runs it with an interrupt at one of its lines, calls and returns; gives how many there were."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        name = frame.f_code.co_filename
        if not (name.startswith(OURS) or name in FILES):
            return None
        if event == "line" and frame.f_code.co_code[frame.f_lasti] in AT_LOOPS:
            return trace
        count += 1
        if count == at:
            raise KeyboardInterrupt  # which ends the tracing, too
        return trace

    outside = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(outside)
    return count


def leaves_no_trace(name, count):
    watched = Watched()
    run = watched.operations()[name]
    before = watched.state()
    lines = interrupted_at(run, 0)
    assert differing(before, watched.state()) == []
    for at in random.Random(name).sample(range(1, lines + 1), min(lines, count)):
        interrupted_at(run, at)
        assert differing(before, watched.state()) == [], f"at {at} of {lines}"


OPERATIONS = list(Watched().operations())


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupt_at_any_line_leaves_no_trace(name):
    leaves_no_trace(name, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupt_at_any_of_many_lines_leaves_no_trace(name):
    leaves_no_trace(name, 200)


# --- At random times -------------------------------------------------------------------------------------------------


def interrupts(count, seed=0, again=0.0):
    """How many of so many alarms at random times, each while something is done, left something different."""
    draw, found, hits = random.Random(seed), [], 0
    watched = Watched()
    operations = watched.operations()
    took = {}
    for name, run in operations.items():
        run()
        start = time.perf_counter()
        run()
        took[name] = time.perf_counter() - start

    def stop(_, frame):
        while frame is not None:  # not where the operation is done: what comes then is the test's own
            if frame.f_code is attempt.__code__:
                raise KeyboardInterrupt
            frame = frame.f_back

    handler, unraisable = signal.signal(signal.SIGALRM, stop), sys.unraisablehook
    sys.unraisablehook = lambda _: None  # an interrupt may hit a destructor, and whatever tells of that
    try:
        before = watched.state()
        for _ in range(count):
            name = draw.choice(list(operations))
            try:
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, draw.uniform(0, took[name])), again)
                attempt(operations[name])
            except KeyboardInterrupt:
                hits += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            found += [(name, key) for key in differing(before, watched.state())]
    finally:
        signal.signal(signal.SIGALRM, handler)
        sys.unraisablehook = unraisable
    return found, hits


def attempt(run):
    run()


needs_alarms = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")


@needs_alarms
def test_interrupts_at_random_times_leave_no_trace():
    found, hits = interrupts(200)
    assert found == []
    assert hits > 100


@needs_alarms
@pytest.mark.slow
@pytest.mark.parametrize("again", [0.0, 0.002])
def test_many_interrupts_at_random_times_leave_no_trace(again):
    found, hits = interrupts(2000, seed=1, again=again)
    assert found == []
    assert hits > 1000


def test_a_turn_is_given_back_wherever_an_interrupt_comes():
    turn = Turn()
    inside = []

    def run():
        with Undo() as held, held:
            turn.take(held)
            inside.append(turn.is_free)

    lines = interrupted_at(run, 0)
    assert lines > 10
    for at in range(1, lines + 1):
        interrupted_at(run, at)
        assert turn.is_free, f"at {at} of {lines}"
    assert set(inside) == {False}


def test_one_thread_has_the_turn_at_a_time():
    turn, inside, most = Turn(), [], []

    def run():
        for _ in range(200):
            with Undo() as held, held:
                turn.take(held)
                with Undo() as again, again:  # as a signal's handler would
                    turn.take(again)
                inside.append(0)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert most == [1] * 800
    assert turn.is_free


# --- What everything rests on ----------------------------------------------------------------------------------------


def test_undoing_goes_on_after_interrupts_which_are_handed_on():
    done, interrupted = [], [3, 2]

    def step(i):
        if interrupted and interrupted[-1] <= i:
            interrupted.pop()
            raise KeyboardInterrupt(i)
        done.append(i)

    def run():
        with Undo() as steps, steps:
            for i in range(5):
                steps.callback(step, i)
            raise ValueError("of the user's")

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    assert done == [4, 3, 2, 1, 0]
    assert isinstance(caught.value.__context__, (KeyboardInterrupt, ValueError))


def test_a_step_that_fails_each_time_does_not_keep_the_others_from_being_taken():
    done = []

    def run():
        with Undo() as steps, steps:
            steps.callback(done.append, "first")
            steps.callback(lambda: 1 / 0)
            steps.callback(done.append, "last")

    with pytest.raises(ZeroDivisionError):
        run()
    assert done == ["last", "first"]


def test_an_exit_that_cannot_begin_leaves_the_other():
    steps, done = Undo(), []
    run = lambda: enter_twice(steps, done)  # noqa: E731
    code = Undo.__exit__.__code__

    def trace(frame, event, arg):
        if frame.f_code is code:
            raise KeyboardInterrupt

    outside = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        sys.settrace(outside)
    assert done == ["undone"]


def enter_twice(steps, done):
    with steps, steps:
        steps.callback(done.append, "undone")


@needs_alarms
@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN, "own"])
def test_the_user_s_own_way_with_ctrl_c_is_respected(handler, small_net, images):
    """Whether it raises, is ignored, or is noted by a handler that goes on."""
    noted, method = [], cea.NormGrad(small_net, "conv3")
    expected = method.attribute(images, 1)
    before = signal.signal(signal.SIGINT, (lambda *_: noted.append(1)) if handler == "own" else handler)
    hook = small_net.conv2.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        if handler is signal.default_int_handler:
            with pytest.raises(KeyboardInterrupt):
                method.attribute(images, 1)
        else:
            assert torch.equal(method.attribute(images, 1), expected)
            assert noted == ([1] if handler == "own" else [])
    finally:
        signal.signal(signal.SIGINT, before)
        hook.remove()
    assert torch.equal(method.attribute(images, 1), expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30), st.integers(0, 9))
def test_a_setting_of_the_process_is_what_it_was_before_the_first_of_several_threads(moves, initial):
    """Threads begin and end in any order, each of them nested as it likes."""
    held = {"value": initial}
    setting = ProcessWide(lambda: held["value"], lambda value: held.update(value=value))
    open_ = {thread: [] for thread in range(4)}
    counter = itertools.count(100)
    with pytest.MonkeyPatch.context() as patch:
        for thread, begins in [*moves, *((t, False) for t in range(4) for _ in range(30))]:
            patch.setattr(undo.threading, "get_ident", lambda thread=thread: thread)
            if begins:
                one = Undo()
                one.__enter__()
                setting.keep(one)
                held["value"] = next(counter)
                open_[thread].append(one)
            elif open_[thread]:
                open_[thread].pop().__exit__(None, None, None)
                assert held["value"] >= 100 or not any(open_.values())
    assert held["value"] == initial
    assert threading.get_ident() not in open_


def test_a_model_without_batch_norm_can_be_trained_after_an_interrupt():
    """The flags are the user's again, so that gradients arrive."""
    net = SmallNet().eval()
    hook = net.conv2.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    try:
        with pytest.raises(KeyboardInterrupt):
            cea.NormGrad(net, "conv3").attribute(torch.randn(1, 3, 8, 8), 1)
    finally:
        signal.signal(signal.SIGINT, outside)
    hook.remove()
    net(torch.randn(1, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
