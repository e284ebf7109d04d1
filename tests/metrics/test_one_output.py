"""Models with one output: its sign is the decision, and the two signs are the classes."""

import functools
import pickle

import captum.attr
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics

FORMS = {
    "N x 1": lambda z: z,
    "N": lambda z: z[:, 0],
    "squeezed": lambda z: z.squeeze(),
}


class One(nn.Module):
    def __init__(self, form="N x 1"):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 1)
        self.form = form

    def forward(self, x):
        z = self.fc(self.b(self.a(x).relu()).relu().mean((2, 3)))
        return z.sigmoid() if self.form == "probability" else FORMS[self.form](z)


class Both(nn.Module):
    """The same with an output for each sign."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        z = self.net(x).reshape(-1)
        return torch.stack([-z, z], 1)


@pytest.fixture(params=FORMS)
def net(request):
    torch.manual_seed(0)
    net = One(request.param).double().eval()
    with torch.no_grad():  # one of the outputs is exactly 0
        net.fc.bias -= net(inputs()).median()
    return net


def inputs():
    return torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


METHODS = {
    "linear approximation": lambda f, net: cea.LinearApproximation(f, net.b),
    "gradcam": lambda f, net: cea.GradCAM(f, net.b),
    "guided": lambda f, net: cea.GuidedBackprop(f, net.b),
    "combination": lambda f, net: cea.LayerCombination(cea.GradCAM(f, [net.a, net.b])),
    "captum's gradcam": lambda f, net: captum.attr.LayerGradCam(f, net.b),
    "input x gradient": lambda f, net: captum.attr.InputXGradient(f),
}


@pytest.mark.parametrize("name", METHODS)
def test_class_sensitivity_is_that_of_a_model_of_both_signs(net, name):
    both = Both(net)
    expected = metrics.class_sensitivity(METHODS[name](both, net), inputs(), both)
    torch.testing.assert_close(metrics.class_sensitivity(METHODS[name](net, net), inputs(), net), expected)
    one_by_one = metrics.class_sensitivity(METHODS[name](net, net), inputs(), net, max_examples_per_batch=1)
    torch.testing.assert_close(one_by_one, expected)
    assert not net._forward_hooks


def test_functions_and_wrappers_explain_both_signs(net):
    expected = metrics.class_sensitivity(cea.GradCAM(net, net.b), inputs(), net)
    assert (expected < 0.9).all()
    explainers = {
        "bound": cea.GradCAM(net, net.b).attribute,
        "closure": cea.GradCAM(lambda t: net(t), net.b),
        "forward": cea.GradCAM(net.forward, net.b),
        "partial": cea.GradCAM(functools.partial(net), net.b),
        "adapter": metrics.as_input_attribution(cea.GradCAM(net, net.b)),
        "function": lambda x, target: cea.GradCAM(net, net.b).attribute(x, target=target),
    }
    for name, explainer in explainers.items():
        got = metrics.class_sensitivity(explainer, inputs(), net)
        torch.testing.assert_close(got, expected, msg=name)
    with pytest.raises(TypeError, match="did not call forward_func"):
        metrics.class_sensitivity(lambda x, target: x, inputs(), net)


def test_each_sign_takes_its_own_step_of_meta_saliency(net):
    meta = lambda f: cea.MetaSaliency(cea.GradCAM(f, net.b), lr=0.1, model=net, vectorized=False)  # noqa: E731
    plus, minus = (
        nn.functional.interpolate(meta(f).attribute(inputs()), (16, 16), mode="bilinear")
        for f in (lambda t: net(t), lambda t: -net(t))
    )
    got = metrics.class_sensitivity(meta(net), inputs(), net)
    torch.testing.assert_close(got, metrics.spearman(plus, minus))


def test_signs_as_given_classes(net):
    method = cea.GradCAM(net, net.b)
    expected = metrics.class_sensitivity(method, inputs(), net)
    got = metrics.class_sensitivity(method, inputs(), net, classes=torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]]))
    torch.testing.assert_close(got[[0, 3]], expected[[0, 3]])
    torch.testing.assert_close(got[[1, 2]], torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="whose signs are the classes"):
        metrics.class_sensitivity(method, inputs(), net, classes=torch.full((4, 2), 2))


@pytest.mark.parametrize("order", ["least", "most"])
def test_removal_until_the_sign_flips(net, order):
    x, both = inputs(), Both(net)
    maps = cea.LinearApproximation(net, net.b).attribute(x)
    expected = metrics.pixel_removal(both, x, maps, order, step=16)
    got = metrics.pixel_removal(net, x, maps, order, step=16, max_examples_per_batch=3)
    assert all(torch.equal(a, b) for a, b in zip(got, expected))
    contrast = metrics.removal_contrast(net, x, maps, n_shuffles=3, step=32)
    torch.testing.assert_close(contrast.delta, metrics.removal_contrast(both, x, maps, n_shuffles=3, step=32).delta)
    assert metrics.parameter_randomization(cea.NormGrad(net, net.b), net, x).values.shape == (3, 4)


def test_an_output_of_0_is_not_above_0():
    total = lambda t: t.sum((1, 2, 3))  # noqa: E731
    maps = torch.rand(2, 1, 4, 4)
    x = torch.stack([torch.ones(1, 4, 4), -torch.ones(1, 4, 4)])
    got = metrics.pixel_removal(total, x, maps)
    assert got.flipped.tolist() == [True, False]  # from above 0 to 0; from below 0 to 0
    assert got.pixels.tolist() == [16, 16]


def test_a_probability_has_no_sign():
    net, x = One("probability").double(), inputs()
    maps = torch.rand(4, 1, 16, 16)
    for forward in (net, lambda t: net(t)[:, 0], lambda t: net(t).squeeze()):
        with pytest.raises(ValueError, match=r"comes out of a sigmoid.*expected the logit"):
            metrics.pixel_removal(forward, x, maps)
    assert metrics.pixel_removal(lambda t: torch.logit(net(t)), x, maps).e.shape == (4,)


def test_games_of_one_class():
    maps = torch.zeros(2, 1, 5, 5)
    maps[:, :, 2, 2] = 1
    masks = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    masks[0, 0, 2, 2] = True
    game = metrics.RestrictedPointingGame(num_classes=1, tolerance=2)
    game.update(maps, list(masks), [[0], [0]])
    assert game.compute()["accuracy"] == 0.5
    assert game.compute()["per_class"].tolist() == [0.5]
    assert pickle.loads(pickle.dumps(game)).compute()["hits"].tolist() == [1]
