"""Equality with Quantus, at equal settings, where it computes the same; and where it does not, the reason shown."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from captum_extract_aggregate import metrics

quantus = pytest.importorskip("quantus")
PLAIN = {"abs": False, "normalise": False, "disable_warnings": True}


@pytest.fixture(scope="module")
def maps():
    """Of other scales in one batch."""
    drawn = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn * torch.tensor([1.0, 2.0, 1e6, 1e3, 0.5]).reshape(5, 1, 1, 1)


@pytest.fixture(scope="module")
def masks():
    drawn = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.3
    drawn[3] = False
    return drawn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Net().double().eval()
    for p in net.parameters():
        nn.init.normal_(p)
    return net


def pictures(n, channels=1, seed=2):
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def scores(measure, maps, masks=None, net=None, x=None, y=None):
    x = torch.rand(len(maps), 1, 8, 8, dtype=torch.float64) if x is None else x
    y = np.zeros(len(maps), dtype=int) if y is None else y
    given = {"a_batch": maps.numpy().copy(), "s_batch": None if masks is None else masks.numpy()}  # it writes to them
    return np.array(measure(net or Net(), x.numpy().copy(), y, **given))


@pytest.mark.parametrize(
    ("theirs", "ours", "of"),
    [
        ("RelevanceMassAccuracy", metrics.relevance_mass_accuracy, "positive"),
        ("RelevanceRankAccuracy", metrics.relevance_rank_accuracy, "signed"),
        ("AUC", metrics.localisation_auc, "signed"),
        ("AttributionLocalisation", metrics.relevance_mass_accuracy, "positive"),
    ],
)
def test_localisation(maps, masks, theirs, ours, of):
    maps = maps.clamp(min=0) if of == "positive" else maps  # it divides by the signed sum, which may be 0
    expected = scores(getattr(quantus, theirs)(**PLAIN), maps, masks)
    found = ours(maps, masks)
    assert found.isnan().tolist() == [False, False, False, True, False]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)


def test_complexity(maps):
    of = maps.abs() * 1e6  # what it adds, 1e-7 and 1e-12, then is nothing
    np.testing.assert_allclose(metrics.sparseness(of).numpy(), scores(quantus.Sparseness(**PLAIN), of), rtol=1e-10)
    np.testing.assert_allclose(metrics.complexity(of).numpy(), scores(quantus.Complexity(**PLAIN), of), rtol=1e-8)
    found = metrics.effective_complexity(of, 1e6)
    assert found.tolist() == scores(quantus.EffectiveComplexity(eps=1e6, **PLAIN), of).tolist()
    # Its default divides by the largest value of the batch, so that a map's score depends on its company.
    usual = scores(quantus.EffectiveComplexity(eps=1e-5, disable_warnings=True), maps)
    alone = [float(scores(quantus.EffectiveComplexity(eps=1e-5, disable_warnings=True), m[None])[0]) for m in maps]
    assert metrics.effective_complexity(maps, 1e-5, relative=True).tolist() == alone != usual.tolist()


def test_histogram_entropy(maps):
    from quantus.functions.complexity_func import discrete_entropy

    for bins in (7, 100):
        expected = [discrete_entropy(a=m.numpy(), x=m.numpy(), n_bins=bins) for m in maps]
        np.testing.assert_allclose(metrics.histogram_entropy(maps, bins).numpy(), expected, rtol=1e-10)


def test_pearson(maps):
    from quantus.functions.similarity_func import correlation_pearson, correlation_spearman

    rows, others = maps.flatten(1), maps.flip(2).flatten(1)
    expected = [float(correlation_pearson(a.numpy(), b.numpy())) for a, b in zip(rows, others)]
    np.testing.assert_allclose(metrics.pearson(rows, others).numpy(), expected, rtol=1e-10)
    expected = [float(correlation_spearman(a.numpy(), b.numpy())) for a, b in zip(rows, others)]
    np.testing.assert_allclose(metrics.spearman(rows, others).numpy(), expected, rtol=1e-10)
    assert not any(math.isnan(v) for v in expected)


def test_pixel_flipping(net):
    """Of one channel, whose pixels are its features; the untouched input is no step of its curve."""
    net = net.float()
    x, a, y = pictures(4), pictures(4, seed=3), np.array([0, 1, 2, 0])
    for step in (4, 16):
        theirs = quantus.PixelFlipping(features_in_step=step, perturb_baseline=0.25, **PLAIN)
        expected = theirs(net, x.numpy().copy(), y, a_batch=a.numpy().copy(), softmax=True)
        found = metrics.perturbation_curve(net, x, a, y, step=step, baseline=0.25)
        np.testing.assert_allclose(found.scores[:, 1:].numpy(), expected, rtol=1e-5)
    with pytest.raises(AssertionError):  # a last step that is shorter
        quantus.PixelFlipping(features_in_step=7, **PLAIN)(net, x.numpy(), y, a_batch=a.numpy())
    net.double()


def test_noisy_linear_imputation():
    from quantus.functions.perturb_func import noisy_linear_imputation

    for channels in (1, 3):
        x, gone = pictures(3, channels).double(), pictures(3, seed=4) < 0.7
        found = metrics.linear_imputation(x, gone)
        for i in range(3):
            (places,) = np.nonzero(gone[i].flatten().numpy())
            expected = noisy_linear_imputation(x[i].numpy(), places, noise=0.0)
            np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-9)


def test_road(net):
    """Of one channel and in one batch."""
    net = net.float()
    x, a = pictures(6), pictures(6, seed=3)
    with torch.no_grad():
        net.fc.bias -= net(x).mean(0)  # decisions that change
        y = net(x).argmax(1).numpy()
    shares = [10, 30, 50, 70, 90]
    road = quantus.ROAD(percentages=shares, noise=0.0, **PLAIN)
    given = {"a_batch": a.numpy().copy()}
    expected = road(net, x.numpy().copy(), y, **given)
    found = metrics.perturbation_curve(
        net, x, a, y, fractions=[p / 100 for p in shares], imputer="linear", output="decision"
    )
    assert found.mean().tolist() == pytest.approx([expected[p] for p in shares])
    assert 0 < found.mean().mean() < 1
    net.double()


def test_relative_stability():
    """Its formula for one neighbour; of several it takes the largest, NaN where any changes the decision."""
    x, near = pictures(3).double() - 0.5, pictures(3, seed=5).double() - 0.5
    a, b = pictures(3, seed=6).double(), pictures(3, seed=7).double()
    a[0, 0, 0, 0] = x[1, 0, 2, 2] = 0
    h, g = (t.flatten(1)[:, :4] for t in (x, near))
    rows = [t.numpy().copy() for t in (x, near, a, b)]
    expected = quantus.RelativeInputStability(**PLAIN).relative_input_stability_objective(*rows)
    np.testing.assert_allclose(metrics.relative_input_stability(x, near, a, b).numpy(), expected, rtol=1e-8)
    rows = [t.numpy().copy() for t in (h, g, a, b)]
    expected = quantus.RelativeOutputStability(**PLAIN).relative_output_stability_objective(*rows)
    np.testing.assert_allclose(metrics.relative_output_stability(h, g, a, b).numpy(), expected, rtol=1e-8)
    rows = [t.numpy().copy() for t in (h, g, a, b)]
    representation = quantus.RelativeRepresentationStability(layer_names=[], **PLAIN)
    expected = representation.relative_representation_stability_objective(*rows)
    np.testing.assert_allclose(metrics.relative_representation_stability(h, g, a, b).numpy(), expected, rtol=1e-8)


def test_lipschitz():
    from quantus.functions.norm_func import l2_norm
    from quantus.functions.similarity_func import distance_euclidean, lipschitz_constant

    x, near, a, b = (pictures(3, seed=i).double().flatten(1) for i in range(4))
    euclidean = {"norm_numerator": distance_euclidean, "norm_denominator": distance_euclidean}
    expected = [lipschitz_constant(*(t[i].numpy() for t in (a, b, x, near)), **euclidean) for i in range(3)]
    np.testing.assert_allclose(metrics.local_lipschitz_estimate(x, near, a, b).numpy(), expected, rtol=1e-8)
    assert l2_norm(a.numpy()).shape == (3,)


def test_emprt(net):
    """With the same draws: all layers anew, as it does it."""
    import copy

    from quantus.helpers.model.pytorch_model import PyTorchModel

    x = pictures(4).double()
    explain = lambda model, t: model.conv(t).abs().mean(1, keepdim=True)  # noqa: E731

    def theirs(model, inputs, targets, **kwargs):
        with torch.no_grad():
            return explain(copy.deepcopy(model).double(), torch.as_tensor(inputs).double()).numpy()

    test = quantus.EfficientMPRT(skip_layers=True, complexity_func_kwargs={"n_bins": 20}, **PLAIN)
    single = copy.deepcopy(net).float()
    expected = test(single, x.float().numpy(), np.zeros(4, dtype=int), explain_func=theirs, a_batch=None)
    *_, (_, drawn) = PyTorchModel(single, channel_first=True, softmax=False).get_random_layer_generator("bottom_up", 42)
    given = dict(drawn.double().named_parameters())

    def as_drawn(layer):
        name = {net.conv: "conv", net.fc: "fc"}[layer]
        for own, p in layer.named_parameters():
            p.data.copy_(given[f"{name}.{own}"])

    found = metrics.emprt(lambda t: explain(net, t), net, x.float().double(), init=as_drawn, bins=20)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
