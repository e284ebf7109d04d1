"""Any method's map, where it wins against other classes'."""

import warnings

import captum.attr
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import make_method
from captum_extract_aggregate.registry import list_methods
from tests.attr.test_together import Counting
from tests.reference.competition import competing_map, rivals_of

pytestmark = pytest.mark.filterwarnings("ignore:.* of . maps are 0", "ignore:the map of")
LAYERS = ["conv1", "conv3"]
TARGETS = [1, 4, 0]


def expected_of(explain, scores, targets, rivals=4, **way):
    """The literal reference on one example at a time: `explain(i, class)` gives an example's map of a class."""
    maps = []
    for i, target in enumerate(targets):
        others = rivals if isinstance(rivals, list) else rivals_of(scores[i].tolist(), target, rivals)
        maps.append(competing_map(explain(i, target), [explain(i, c) for c in others], **way))
    return torch.stack(maps)


@pytest.fixture
def double(small_net, images):
    return small_net.double(), images.double()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", [cea.NormGrad, cea.LinearApproximation])
def test_ours_at_several_layers(double, kind, normalize):
    net, x = double
    plain = kind(net, LAYERS)
    way = {"temperature": 30.0, "threshold": 0.002, "normalize": normalize}
    found = cea.ClassCompetition(plain, rivals=3, **way).attribute(x, target=TARGETS)
    assert isinstance(found, list)
    for layer, got in enumerate(found):
        expected = expected_of(
            lambda i, c, at=layer: plain.attribute(x[i : i + 1], target=c)[at][0], net(x), TARGETS, 3, **way
        )
        assert expected.any()
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


def test_captums_methods_entry_by_entry(double):
    net, x = double
    plain = captum.attr.IntegratedGradients(net)
    given = {"baselines": 0.1, "n_steps": 5}
    found = cea.ClassCompetition(plain, classes=[0, 3, 1]).attribute(x, target=2, **given)
    expected = expected_of(
        lambda i, c: plain.attribute(x[i : i + 1], target=c, **given)[0],
        net(x),
        [2] * 3,
        [0, 3, 1],
        normalize=True,
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    both = cea.ClassCompetition(plain).attribute((x,), target=2)
    assert isinstance(both, tuple)
    assert torch.equal(both[0], cea.ClassCompetition(plain).attribute(x, target=2))
    captums, ours = (
        cea.ClassCompetition(method).attribute(x, target=TARGETS, relu_attributions=True)
        for method in (captum.attr.LayerGradCam(net, net.conv1), cea.GradCAM(net, net.conv1))
    )
    assert ours.any()
    torch.testing.assert_close(ours, captums)


def test_one_forward_and_a_backward_for_each_class(small_net, images):
    net = Counting(small_net)
    layers = [small_net.conv1, small_net.conv3]
    methods = {
        "a": cea.ClassCompetition(cea.NormGrad(net, layers), rivals=3),
        "b": cea.ClassCompetition(cea.LinearApproximation(net, layers), rivals=3, threshold=0.1, normalize=False),
        "joined": cea.ClassCompetition(cea.LayerCombination(cea.NormGrad(net, layers)), rivals=3),
    }
    alone = {name: method.attribute(images, target=TARGETS) for name, method in methods.items()}
    assert (net.forwards, net.backwards) == (3, 12)
    net.forwards = net.backwards = 0
    together = cea.attribute_together(methods, images, target=TARGETS)
    assert (net.forwards, net.backwards) == (1, 4)
    assert list(together) == list(methods)
    for name in methods:
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=0)
    net.forwards = net.backwards = 0
    maps = methods["a"].attribute_per_target(images, [0, 1, 2, 3])  # all compete with all: five classes there are
    assert (net.forwards, net.backwards) == (1, 5)
    for layer in range(2):
        torch.testing.assert_close(maps[layer][:, 2], methods["a"].attribute(images, target=2)[layer])


def test_company_is_not_mixed_up(small_net, images):
    plain = cea.NormGrad(small_net, "conv3")
    methods = {
        "plain": plain,
        "three": cea.ClassCompetition(plain, rivals=3),
        "given": cea.ClassCompetition(plain, classes=[0, 4]),
        "captum": cea.ClassCompetition(captum.attr.InputXGradient(small_net)),
        "combined": cea.LayerCombination(cea.ClassCompetition(cea.NormGrad(small_net, LAYERS))),
    }
    (one, two) = cea.attribute_together_per_target(methods, images, [TARGETS, 2])
    for name, method in methods.items():
        torch.testing.assert_close(one[name], method.attribute(images, target=TARGETS))
        torch.testing.assert_close(two[name], method.attribute(images, target=2))


def test_rivals_are_a_set(small_net, images):
    plain = cea.NormGrad(small_net, LAYERS)
    first, *others = (
        cea.ClassCompetition(plain, classes=c).attribute(images, target=1)
        for c in ([0, 3, 2], [2, 0, 3], [3, 0, 2, 0, 3], [1, 0, 2, 3], torch.tensor([[0, 2, 3]] * 3))
    )
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other))
    rows = cea.ClassCompetition(plain, classes=[[0], [2, 3, 4], [0, 2]])  # of different lengths
    for i, row in enumerate(rows.classes):
        alone = cea.ClassCompetition(plain, classes=row).attribute(images[i : i + 1], target=1)
        for a, b in zip(rows.attribute(images, target=1), alone):
            torch.testing.assert_close(a[i : i + 1], b)


def test_of_two_classes_the_other_is_the_rival(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)).eval()
    plain = cea.LinearApproximation(net, "0")
    found, given = (
        cea.ClassCompetition(plain, **rivals).attribute(images, target=1)
        for rivals in ({"rivals": 4}, {"classes": [0]})
    )
    assert found.any()
    assert torch.equal(found, given)
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 1)).eval()
    with pytest.raises(ValueError, match="expected N x classes, two or more"):
        cea.ClassCompetition(cea.NormGrad(one, "0")).attribute(images, target=0)


class Alike(nn.Module):
    """Classes that all see the same."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).tanh().mean((1, 2, 3))[:, None].expand(-1, 5)


def test_all_classes_meet_the_same_noise(images):
    torch.manual_seed(0)
    noisy = captum.attr.NoiseTunnel(captum.attr.InputXGradient(Alike().eval()))
    with pytest.warns(UserWarning, match="3 of 3 maps are 0 everywhere: the target wins nowhere"):
        assert not cea.ClassCompetition(noisy).attribute(images, target=1, nt_samples=2).any()
    before = torch.get_rng_state()
    noisy.attribute(images, target=1, nt_samples=2)
    after, _ = torch.get_rng_state(), torch.set_rng_state(before)
    with pytest.warns(UserWarning, match="3 of 3 maps are 0"):
        cea.ClassCompetition(noisy).attribute(images, target=1, nt_samples=2)
    assert torch.equal(torch.get_rng_state(), after)  # as after one call


def test_small_maps_are_told_of(double):
    net, x = double
    net.fc.weight.data *= 1e-3
    plain = cea.LinearApproximation(net, "conv1")
    with pytest.warns(UserWarning, match=r"3 of 3 maps are 0 .* \(of magnitudes up to .*; try normalize=True\)"):
        assert not cea.ClassCompetition(plain, normalize=False).attribute(x, target=1).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = cea.ClassCompetition(plain).attribute(x, target=1)
        net.fc.weight.data *= 1e3
        large = cea.ClassCompetition(plain).attribute(x, target=1)
    torch.testing.assert_close(1e3 * small, large)


def test_wrappers_within_and_around(double):
    net, x = double
    plain = cea.NormGrad(net, "conv3")
    competing = cea.ClassCompetition(plain)
    for both in (
        cea.ClassCompetition(cea.MetaSaliency(plain, lr=0.01)),
        cea.MetaSaliency(competing, lr=0.01),
        cea.ClassCompetition(cea.LibraGrad(plain)),
        cea.LibraGrad(competing),
        captum.attr.NoiseTunnel(competing),
    ):
        assert both.attribute(x, target=TARGETS).shape == (3, 1, 3, 3)
    relus = cea.LibraGrad(competing).attribute(x, target=TARGETS)  # on ReLUs, balanced gradients are gradients
    torch.testing.assert_close(relus, competing.attribute(x, target=TARGETS))
    competing.layer = net.conv1
    assert competing.attribute(x, target=1).shape == (3, 1, 12, 12)
    to_input = competing.attribute(x, target=1, attribute_to_layer_input=True)
    assert to_input.shape == competing.attribute_per_target(x, [1], None, True)[:, 0].shape == (3, 1, 12, 12)


def test_by_name_on_the_model_of_a_plan(small_net, images):
    assert "class-competition" in list_methods()
    made = make_method("ClassCompetition", small_net, LAYERS, method="gradcam", rivals=2)
    assert repr(made) == "ClassCompetition(GradCAM(model, ['conv1', 'conv3']), rivals=2)"
    assert [m.shape[1:] for m in made.attribute(images, target=1)] == [(1, 12, 12), (1, 3, 3)]
    assert repr(cea.ClassCompetition(made.attribution_method, classes=[[1], [2]])).endswith("classes=[[1], [2]])")


class NoTarget(captum.attr.Attribution):
    def attribute(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"rivals": 0}, "rivals is 0; expected an integer of at least 1"),
        ({"rivals": True}, "rivals is True; expected an integer"),
        ({"temperature": 0}, "temperature is 0; expected a number above 0"),
        ({"temperature": float("inf")}, "temperature is inf; expected a number above 0"),
        ({"threshold": 1.0}, "threshold is 1.0; expected a number from -1 to below 1"),
        ({"normalize": 1}, "normalize is 1; expected True or False"),
        ({"classes": "dog"}, "classes is 'dog'; expected a list of class indices"),
        ({"rival": 3}, "an argument of ClassCompetition is 'rival', which is unknown; did you mean 'rivals'"),
    ],
)
def test_mistakes_are_one_line(small_net, arguments, expected):
    with pytest.raises((ValueError, TypeError), match=expected):
        cea.ClassCompetition(cea.NormGrad(small_net, "conv3"), **arguments)


def test_what_cannot_compete(small_net, images):
    with pytest.raises(TypeError, match="attribution_method is a SmallNet; expected an attribution object"):
        cea.ClassCompetition(small_net)
    with pytest.raises(TypeError, match="is NoTarget, which explains no target"):
        cea.ClassCompetition(NoTarget(small_net))
    method = cea.ClassCompetition(cea.ActivityAttribution(small_net, "conv3"))
    assert not method.has_convergence_delta()
    with pytest.raises(ValueError, match="does not add up to its score; expected it of Activity"):
        method.attribute(images, target=1, return_convergence_delta=True)
    with pytest.raises(NotImplementedError):
        method.attribute_future()
