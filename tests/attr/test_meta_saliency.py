"""Meta-saliency against a literal reference, around all kinds of methods, and what it must leave as it was."""

import copy
import functools
import warnings

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from tests.conftest import SmallNet, relative_error
from tests.faults import InjectedError, prepared, snapshot

LR = 0.01


def reference(make, net, x, targets, lr=LR, steps=1, loss=F.cross_entropy, names=None):
    """Each example by itself: a copy of the network, SGD, the method built on the copy."""
    results = []
    for i, target in enumerate(targets):
        stepped = copy.deepcopy(net)
        for name, p in stepped.named_parameters():
            p.requires_grad_(names is None or name in names)
        for _ in range(steps):
            chosen = [p for p in stepped.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(chosen, lr=abs(lr), maximize=lr < 0)
            optimizer.zero_grad()
            loss(stepped(x[i : i + 1]), torch.tensor([target])).backward()
            optimizer.step()
        results.append(make(stepped, x[i : i + 1], target).detach())
    return torch.cat(results)


@pytest.fixture
def net(small_net):
    return small_net.double()


@pytest.fixture
def x():
    return torch.randn(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


TARGETS = [1, 4, 0]
LAYER_METHODS = {
    "normgrad": lambda net: cea.NormGrad(net, net.conv3),
    "real layer": lambda net: cea.NormGrad(net, net.conv2, virtual_identity=False),
    "gradcam++": lambda net: cea.GradCAMPlusPlus(net, net.conv3),
    "fullgrad": lambda net: cea.FullGrad(net),
    "lrp": lambda net: cea.LRP(net, gamma=0.25),
    "excitation": lambda net: cea.ExcitationBackprop(net, net.conv1),
    "combination": lambda net: cea.LayerCombination(cea.NormGrad(net, [net.conv1, net.conv3])),
    "captum gradcam": lambda net: captum.attr.LayerGradCam(net, net.conv3),
    "captum layer activation x gradient": lambda net: captum.attr.LayerGradientXActivation(net, net.conv3),
    "saliency": lambda net: captum.attr.Saliency(net),
    "integrated gradients": lambda net: captum.attr.IntegratedGradients(net),
    "input x gradient": lambda net: captum.attr.InputXGradient(net),
    "deeplift": lambda net: captum.attr.DeepLift(net),
    "feature ablation": lambda net: captum.attr.FeatureAblation(net),
}


@pytest.mark.parametrize("name", LAYER_METHODS)
def test_literal_reference(net, x, name):
    make = LAYER_METHODS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = cea.MetaSaliency(make(net), lr=LR).attribute(x, target=TARGETS)
        expected = reference(lambda stepped, one, target: make(stepped).attribute(one, target=target), net, x, TARGETS)
    assert relative_error(got, expected) < 1e-10


def test_methods_with_arguments_of_their_own(net, x):
    """Occlusion, baselines per example, guided GradCAM, tunnels inside and outside, deltas."""
    occlusion = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
    got = cea.MetaSaliency(captum.attr.Occlusion(net), lr=LR).attribute(x, target=TARGETS, **occlusion)
    make = lambda s, one, target: captum.attr.Occlusion(s).attribute(one, target=target, **occlusion)  # noqa: E731
    assert relative_error(got, reference(make, net, x, TARGETS)) < 1e-10

    baselines = torch.randn_like(x)
    ig = cea.MetaSaliency(captum.attr.IntegratedGradients(net), lr=LR)
    got, delta = ig.attribute(x, target=TARGETS, baselines=baselines, n_steps=20, return_convergence_delta=True)
    singles = [
        ig.attribute(
            x[i : i + 1], target=TARGETS[i], baselines=baselines[i : i + 1], n_steps=20, return_convergence_delta=True
        )
        for i in range(3)
    ]
    assert torch.equal(got, torch.cat([single for single, _ in singles]))
    assert torch.equal(delta, torch.cat([d for _, d in singles]))
    assert delta.shape == (3,)

    guided = captum.attr.GuidedGradCam(net, net.conv3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cea.MetaSaliency(guided, lr=LR).attribute(x, target=TARGETS).shape == x.shape

    torch.manual_seed(0)
    distribution = torch.randn(3, 3, 12, 12, dtype=torch.float64)  # as many as examples, and yet not one for each
    shap = cea.MetaSaliency(captum.attr.GradientShap(net), lr=0.0)
    np.random.seed(1)
    torch.manual_seed(1)
    got = shap.attribute(x[:1], target=1, baselines=distribution, n_samples=4)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(got, captum.attr.GradientShap(net).attribute(x[:1], distribution, target=1, n_samples=4))
    received = []
    spy = captum.attr.GradientShap(net)
    spy.attribute = lambda inputs, baselines, target=None: received.append(baselines) or inputs
    cea.MetaSaliency(spy).attribute(x, target=TARGETS, baselines=distribution)
    assert all(b is distribution for b in received)


def test_inside_and_outside_of_noise_tunnels(net, x):
    inside = cea.MetaSaliency(captum.attr.NoiseTunnel(cea.NormGrad(net, net.conv3)), lr=LR)
    assert inside.attribute(x, target=TARGETS, nt_samples=3, stdevs=0.01).shape == (3, 1, 3, 3)
    meta = cea.MetaSaliency(cea.NormGrad(net, net.conv3), lr=LR, vectorized=False)
    outside = captum.attr.NoiseTunnel(meta)
    torch.manual_seed(0)
    got = outside.attribute(x, target=TARGETS, nt_samples=2, stdevs=0.1)
    torch.manual_seed(0)
    noisy = x.repeat_interleave(2, 0)
    noisy = noisy + torch.normal(0, torch.full(noisy.shape, 0.1))  # drawn in float32
    expected = meta.attribute(noisy, target=[t for t in TARGETS for _ in range(2)])
    torch.testing.assert_close(got, expected.reshape(3, 2, 1, 3, 3).mean(1))
    many = captum.attr.NoiseTunnel(cea.MetaSaliency(cea.NormGrad(net, ["conv1", "conv3"])))
    with pytest.raises(ValueError, match="layer is a list of 2 layers"):
        many.attribute(x, target=TARGETS)


def test_inside_a_layer_combination(net, x):
    """One step for all layers, and the same as the combination of each layer's meta-saliency."""
    layers = [net.conv1, net.conv3]
    steps = []
    meta = cea.MetaSaliency(cea.NormGrad(net, layers), lr=LR, loss_func=_counted(steps))
    got = cea.LayerCombination(meta).attribute(x, target=TARGETS)
    make = lambda s, one, target: cea.LayerCombination(  # noqa: E731
        cea.NormGrad(s, [s.conv1, s.conv3])
    ).attribute(one, target=target)
    assert relative_error(got, reference(make, net, x, TARGETS)) < 1e-10
    assert len(steps) == 3
    captums = cea.MetaSaliency(captum.attr.LayerGradCam(net, layers), lr=LR)
    assert cea.LayerCombination(captums).attribute(x, target=TARGETS).shape == (3, 1, 12, 12)
    assert captums.layer == layers


def _counted(calls):
    def loss(output, target):
        calls.append(target)
        return F.cross_entropy(output, torch.as_tensor(target).reshape(1))

    return loss


def test_steps_ascent_losses_and_subsets(net, x):
    make = lambda s, one, target: cea.NormGrad(s, s.conv3).attribute(one, target=target)  # noqa: E731
    method = cea.NormGrad(net, net.conv3)

    def meta(**arguments):
        return cea.MetaSaliency(method, **{"lr": LR} | arguments).attribute(x, target=TARGETS)

    assert relative_error(meta(steps=3), reference(make, net, x, TARGETS, steps=3)) < 1e-10
    assert relative_error(meta(ascent=True), reference(make, net, x, TARGETS, lr=-LR)) < 1e-10
    bce = lambda output, target: F.binary_cross_entropy_with_logits(  # noqa: E731
        output[:, int(target)], torch.ones(1, dtype=output.dtype)
    )
    assert relative_error(meta(loss_func="binary_cross_entropy"), reference(make, net, x, TARGETS, loss=bce)) < 1e-10
    own = lambda output, target: output.square().sum() - output[0, target[0]]  # noqa: E731
    own_reference = lambda output, target: output.square().sum() - output[0, int(target)]  # noqa: E731
    assert relative_error(meta(loss_func=own), reference(make, net, x, TARGETS, loss=own_reference)) < 1e-10
    expected = reference(make, net, x, TARGETS, names={"conv3.weight", "conv3.bias", "fc.weight"})
    assert relative_error(meta(parameters=["conv3.*", "fc.weight"]), expected) < 1e-10
    chosen = [net.conv3.weight, "conv3.bias", net.fc.weight]
    assert relative_error(meta(parameters=chosen), expected) < 1e-10
    assert relative_error(meta(), expected) > 1e-6


def test_lr_0_is_the_plain_map_and_small_lr_tends_to_it_linearly(net, x):
    method = cea.NormGrad(net, net.conv3)
    plain = method.attribute(x, target=TARGETS)

    def difference(lr, ascent=False):
        return cea.MetaSaliency(method, lr=lr, ascent=ascent).attribute(x, target=TARGETS) - plain

    assert difference(0.0).abs().max() == 0
    assert relative_error(difference(1e-6), difference(1e-7) * 10) < 1e-4
    assert relative_error(difference(1e-6, ascent=True), -difference(1e-6)) < 1e-4
    assert relative_error(difference(1e-3), difference(1e-7) * 1e4) > 1e-6


class Tied(nn.Module):
    """One convolution in two places, and the head's weight tied to another parameter."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.fc.weight

    def forward(self, x):
        y = self.conv(self.conv(x).relu()).relu()
        return self.other(self.fc(y.mean((2, 3))))


def test_tied_frozen_and_named_parameters(net, x):
    tied = Tied().double()
    make = lambda s, one, target: cea.LayerGradient(s).attribute(one, target=target)  # noqa: E731
    targets = [0, 1, 2]
    got = cea.MetaSaliency(cea.LayerGradient(tied), lr=LR).attribute(x, target=targets)
    assert relative_error(got, reference(make, tied, x, targets)) < 1e-10
    by_name = cea.MetaSaliency(cea.LayerGradient(tied), parameters=["other.weight"])
    assert by_name.parameters == [tied.fc.weight]
    frozen = copy.deepcopy(net).requires_grad_(False)
    got = cea.MetaSaliency(cea.NormGrad(frozen, "conv3"), lr=LR).attribute(x, target=TARGETS)
    expected = cea.MetaSaliency(cea.NormGrad(net, "conv3"), lr=LR).attribute(x, target=TARGETS)
    assert torch.equal(got, expected)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_functions_partials_and_extra_arguments(net, x):
    method = cea.NormGrad(lambda t: net(t) * 1.0, net.conv3)
    with pytest.raises(TypeError, match="expected model="):
        cea.MetaSaliency(method)
    got = cea.MetaSaliency(method, lr=LR, model=net).attribute(x, target=TARGETS)
    assert (
        relative_error(got, cea.MetaSaliency(cea.NormGrad(net, net.conv3), lr=LR).attribute(x, target=TARGETS)) < 1e-12
    )
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
    meta = cea.MetaSaliency(cea.NormGrad(functools.partial(net), net.conv3), lr=LR)
    together = meta.attribute(x, target=TARGETS, additional_forward_args=scale)
    for i in range(3):
        alone = meta.attribute(x[i : i + 1], target=TARGETS[i], additional_forward_args=scale[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)
    two = cea.MetaSaliency(captum.attr.IntegratedGradients(lambda a, b: net(a + b)), lr=LR, model=net)
    first, second = two.attribute((x, x), target=TARGETS)
    assert first.shape == second.shape == x.shape


def test_scores_of_other_shapes(net, x):
    """A class at a position, or a single score with a loss of one's own."""
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1)).double()
    got = cea.MetaSaliency(captum.attr.Saliency(dense), lr=LR).attribute(x, target=(2, 3, 4))
    at = lambda output, target: F.cross_entropy(output[:, :, 3, 4], torch.tensor([2]))  # noqa: E731
    make = lambda s, one, target: captum.attr.Saliency(s).attribute(one, target=(2, 3, 4))  # noqa: E731
    assert relative_error(got, reference(make, dense, x, [0, 0, 0], loss=at)) < 1e-10
    single = lambda t: net(t)[:, 1]  # noqa: E731
    default = cea.MetaSaliency(cea.NormGrad(single, net.conv3), model=net).attribute(x)
    positive = cea.MetaSaliency(cea.NormGrad(single, net.conv3), model=net, loss_func="binary_cross_entropy")
    assert torch.equal(positive.attribute(x), default)


class OneOutput(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.a, self.b, self.fc, self.form = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, 2), nn.Linear(6, 1), form

    def forward(self, x):
        z = self.fc(self.b(self.a(x).relu()).relu().mean((2, 3)))
        return self.form(z)


@pytest.mark.parametrize("vectorized", [False, True, None])
@pytest.mark.parametrize("form", ["N x 1", "N", "squeezed"])
def test_one_output_takes_the_step_of_binary_cross_entropy(form, vectorized):
    torch.manual_seed(0)
    forms = {"N x 1": lambda z: z, "N": lambda z: z[:, 0], "squeezed": lambda z: z.squeeze()}
    net, x = OneOutput(forms[form]).double().eval(), torch.randn(4, 3, 12, 12, dtype=torch.float64)

    def bce(output, target):
        return F.binary_cross_entropy_with_logits(output.reshape(1), torch.ones(1, dtype=output.dtype))

    captums = [] if form == "squeezed" else [lambda s: captum.attr.InputXGradient(s)]  # needs a batch dimension
    for make in (lambda s: cea.NormGrad(s, s.b), *captums):
        expected = reference(lambda s, one, target: make(s).attribute(one), net, x, [0] * 4, loss=bce)  # noqa: B023
        for target in (None, 0, [0] * 4, torch.zeros(4, dtype=torch.long)) if form == "N x 1" else (None,):
            for loss in (None, "cross_entropy", "binary_cross_entropy"):
                meta = cea.MetaSaliency(make(net), lr=LR, loss_func=loss, vectorized=vectorized)
                assert relative_error(meta.attribute(x, target=target), expected) < 1e-10
        assert relative_error(make(net).attribute(x).detach(), expected) > 1e-6
    own = cea.MetaSaliency(cea.NormGrad(net, net.b), lr=LR, loss_func=lambda output, target: output.square().sum())
    square = lambda output, target: output.square().sum()  # noqa: E731
    expected = reference(lambda s, one, target: cea.NormGrad(s, s.b).attribute(one), net, x, [0] * 4, loss=square)
    assert relative_error(own.attribute(x), expected) < 1e-10


def test_one_class_at_each_place():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    got = cea.MetaSaliency(cea.NormGrad(dense, dense[0]), lr=LR).attribute(x, target=(0, 3, 4))
    bce = lambda output, target: -F.logsigmoid(output[:, 0, 3, 4]).sum()  # noqa: E731
    make = lambda s, one, target: cea.NormGrad(s, s[0]).attribute(one, target=(0, 3, 4))  # noqa: E731
    assert relative_error(got, reference(make, dense, x, [0, 0], loss=bce)) < 1e-10


@pytest.mark.parametrize("vectorized", [False, True])
def test_one_output_of_a_sigmoid_is_refused(vectorized):
    x = torch.randn(4, 3, 12, 12)
    for form in (torch.sigmoid, lambda z: z.sigmoid().squeeze(1), lambda z: z.sigmoid().reshape(-1, 1)):
        net = OneOutput(form).eval()
        target = 0 if net(x).ndim == 2 else None
        for loss in (None, "binary_cross_entropy"):
            meta = cea.MetaSaliency(cea.NormGrad(net, net.b), loss_func=loss, vectorized=vectorized)
            with pytest.raises(ValueError, match="comes out of a sigmoid"):
                meta.attribute(x, target=target)
        own = cea.MetaSaliency(cea.NormGrad(net, net.b), loss_func=lambda output, target: -output.log().sum())
        assert own.attribute(x, target=target).shape == (4, 1, 4, 4)
    tanh = OneOutput(torch.tanh).eval()
    assert cea.MetaSaliency(cea.NormGrad(tanh, tanh.b), vectorized=vectorized).attribute(x).shape == (4, 1, 4, 4)


def test_under_no_grad_and_in_captums_metrics(net, x):
    meta = cea.MetaSaliency(cea.LayerGradient(net), lr=LR)  # Captum's Saliency fails under inference_mode
    expected = meta.attribute(x, target=1)
    with torch.no_grad():
        assert torch.equal(meta.attribute(x, target=1), expected)
    with torch.inference_mode():
        assert torch.equal(meta.attribute(x, target=1), expected)
    assert not expected.requires_grad
    meta = cea.MetaSaliency(captum.attr.Saliency(net), lr=LR)
    sensitivity = captum.metrics.sensitivity_max(meta.attribute, x, target=1, n_perturb_samples=2)
    assert sensitivity.shape == (3,)
    assert (sensitivity > 0).all()


def test_batch_norm_is_in_eval_mode_during_the_step(net, x):
    expected = cea.MetaSaliency(captum.attr.Saliency(net), lr=LR).attribute(x, target=1)
    modes = []

    class Spy(captum.attr.Saliency):
        def attribute(self, *args, **kwargs):
            modes.append(net.bn.training)
            net.bn.eval()
            try:
                return super().attribute(*args, **kwargs)
            finally:
                net.bn.train(modes[-1])

    net.bn.train()
    before = copy.deepcopy(dict(net.named_buffers()))
    got = cea.MetaSaliency(Spy(net), lr=LR).attribute(x, target=1)
    assert torch.equal(got, expected)
    assert modes == [True] * 3
    assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())


def test_data_parallel_on_the_cpu(net, x, no_gpu):
    parallel = nn.DataParallel(net)
    got = cea.MetaSaliency(captum.attr.Saliency(parallel), lr=LR).attribute(x, target=TARGETS)
    assert torch.equal(got, cea.MetaSaliency(captum.attr.Saliency(net), lr=LR).attribute(x, target=TARGETS))


@pytest.mark.parametrize("error", [InjectedError(), KeyboardInterrupt()])
@pytest.mark.parametrize("vectorized", [False, True])
def test_restored_bit_for_bit(error, vectorized):
    net, x = prepared()

    class Failing(cea.NormGrad):
        def all_maps(self, *args):
            torch.rand(3)
            raise error

    before = snapshot(net, x)
    state = torch.get_rng_state()
    for method in (Failing(net, net.conv3), Failing(net, ["conv1", "conv3"])):
        with pytest.raises(type(error)):
            cea.MetaSaliency(method, lr=1.0, vectorized=vectorized).attribute(x, target=1)
        torch.set_rng_state(state)  # drawn by the wrapped method itself
        assert snapshot(net, x) == before
    for loss in (lambda output, target: output, lambda output, target: 1 / 0, lambda output, target: output[0, 0] / 0):
        with pytest.raises((ValueError, ZeroDivisionError)):
            cea.MetaSaliency(cea.NormGrad(net, net.conv3), loss_func=loss).attribute(x, target=1)
        assert snapshot(net, x) == before
    cea.MetaSaliency(cea.NormGrad(net, net.conv3), lr=1.0, steps=3, vectorized=vectorized).attribute(x, target=1)
    cea.MetaSaliency(captum.attr.Saliency(net), lr=1.0).attribute(x, target=1)
    assert snapshot(net, x) == before


WRONG = {
    "no method": (lambda net: cea.MetaSaliency(net), TypeError, "attribution_method is a SmallNet"),
    "negative lr": (lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), lr=-1), ValueError, "ascent=True climbs"),
    "no steps": (lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), steps=0), ValueError, "steps is 0"),
    "unknown loss": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), loss_func="cross-entropy"),
        ValueError,
        "did you mean 'cross_entropy'",
    ),
    "loss is a number": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), loss_func=1),
        TypeError,
        "loss_func is a int",
    ),
    "vectorized is a string": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), vectorized="auto"),
        TypeError,
        "vectorized is 'auto'",
    ),
    "unknown parameter": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), parameters=["conv3.wieght"]),
        ValueError,
        "did you mean 'conv3.weight'",
    ),
    "foreign parameter": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), parameters=[SmallNet().fc.weight]),
        ValueError,
        "no parameter of the model",
    ),
    "parameters is a string": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), parameters="conv3.*"),
        TypeError,
        "parameters is a str",
    ),
    "parameters is empty": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), parameters=[]),
        ValueError,
        "no parameters are chosen",
    ),
    "another copy": (
        lambda net: cea.MetaSaliency(cea.NormGrad(lambda t: net(t), net.conv3), model=SmallNet()).attribute(
            X, target=1
        ),
        ValueError,
        "another copy",
    ),
    "no target": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3")).attribute(X),
        ValueError,
        "target is None",
    ),
    "target out of range": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3")).attribute(X, target=9),
        ValueError,
        "out of range",
    ),
    "too few targets": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3")).attribute(X, target=[1]),
        ValueError,
        "1 entries for 4 examples",
    ),
    "a keyword the method has not": (
        lambda net: cea.MetaSaliency(captum.attr.Saliency(net)).attribute(X, target=1, attribute_to_layer_input=True),
        ValueError,
        "attribute_to_layer_input is given, but Saliency takes none",
    ),
    "loss of many numbers": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), loss_func=lambda o, t: o).attribute(X, target=1),
        ValueError,
        "a tensor of one number",
    ),
    "loss that detaches": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3"), loss_func=lambda o, t: o.detach().sum()).attribute(
            X, 1
        ),
        ValueError,
        "cannot be differentiated",
    ),
    "NaN": (
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv3")).attribute(X * torch.nan, target=1),
        ValueError,
        "the loss is nan",
    ),
    "a delta by itself": (
        lambda net: cea.MetaSaliency(captum.attr.IntegratedGradients(net)).compute_convergence_delta(X, X, X),
        NotImplementedError,
        "return_convergence_delta",
    ),
}
X = torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case):
    run, error, message = WRONG[case]
    with pytest.raises(error) as caught:
        run(SmallNet().eval())
    assert message in str(caught.value), str(caught.value)


def test_its_manners():
    net = SmallNet().eval()
    assert cea.MetaSaliency.get_name() == "Meta-saliency"
    meta = cea.MetaSaliency(cea.LinearApproximation(net, "conv3"))
    assert meta.multiplies_by_inputs
    assert not meta.has_convergence_delta()
    meta.layer = net.conv1  # as TCAV does
    assert meta.attribution_method.layer is net.conv1
    activation = cea.MetaSaliency(captum.attr.LayerActivation(net, net.conv3))  # which explains no target
    assert activation.attribute(X, target=1).shape == (4, 8, 2, 2)
    assert activation.attribute(X, target=1, attribute_to_layer_input=False).shape == (4, 8, 2, 2)
    together = cea.attribute_together({"meta": meta, "plain": cea.NormGrad(net, "conv3")}, X, 1)
    assert together["meta"].shape == (4, 1, 8, 8)


# What a reviewer found


class Assigning(nn.Module):
    """A forward that writes to its module, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.register_buffer("last", torch.zeros(3))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.last = x.mean((0, 2, 3)).detach()
        self.count += 1
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("vectorized", [False, True])
def test_what_modules_hold_comes_back(vectorized):
    x = torch.randn(5, 3, 8, 8)
    assigning = Assigning().eval()
    normed = Assigning().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(normed.conv)
    normed(x[:1])
    for net in (assigning, normed):
        weight = net.conv.weight.detach().clone()
        held = {name: (b, b.clone()) for name, b in net.named_buffers()}
        meta = cea.MetaSaliency(cea.NormGrad(net, "conv"), lr=1.0, vectorized=vectorized)
        assert torch.isfinite(meta.attribute(x, target=1)).all()
        assert torch.equal(net.conv.weight, weight)
        for name, b in net.named_buffers():
            assert b is held[name][0]
            assert torch.equal(b, held[name][1])
        copy.deepcopy(net.state_dict())


@pytest.mark.parametrize("cls", ["Saliency", "InputXGradient", "DeepLift", "IntegratedGradients"])
def test_noise_tunnels_around_captums_input_methods(net, x, cls):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tunnel = captum.attr.NoiseTunnel(cea.MetaSaliency(getattr(captum.attr, cls)(net), lr=LR))
        assert tunnel.attribute(x, target=TARGETS, nt_samples=2).shape == x.shape


def test_targets_of_numpy_and_arguments_in_dictionaries(net, x):
    for method in (cea.NormGrad(net, net.conv3), captum.attr.Saliency(net)):
        meta = cea.MetaSaliency(method, lr=LR)
        expected = meta.attribute(x, target=TARGETS)
        for target in (np.array(TARGETS), [np.int64(t) for t in TARGETS], torch.tensor(TARGETS, dtype=torch.int32)):
            assert torch.equal(meta.attribute(x, target=target), expected)
    scaled = lambda t, extra: net(t) * extra["scale"]  # noqa: E731
    meta = cea.MetaSaliency(cea.NormGrad(scaled, net.conv3), lr=LR, model=net)
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
    together = meta.attribute(x, target=1, additional_forward_args=({"scale": scale},))
    alone = meta.attribute(x[1:2], target=1, additional_forward_args=({"scale": scale[1:2]},))
    assert torch.equal(together[1:2], alone)

    class Hidden:
        def __init__(self, value):
            self.value = value

    hiding = cea.MetaSaliency(cea.NormGrad(lambda t, h: net(t) * h.value, net.conv3), lr=LR, model=net)
    with pytest.raises(ValueError, match="3 scores for one example"):
        hiding.attribute(x, target=1, additional_forward_args=(Hidden(scale),))


def test_permutations_between_examples_and_layers_that_never_run(net):
    with pytest.raises(ValueError, match="exchanges values between examples"):
        cea.MetaSaliency(captum.attr.FeaturePermutation(net))
    x = torch.randn(5, 3, 12, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match="never ran"):
        cea.MetaSaliency(cea.NormGrad(net, nn.ReLU()), vectorized=True).attribute(x, target=1)
    plain = cea.NormGrad(net, net.conv3).attribute(x[:1], target=1)
    assert torch.equal(cea.MetaSaliency(cea.NormGrad(net, net.conv3), lr=0).attribute(x, target=1)[:1], plain)
