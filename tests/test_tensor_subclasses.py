"""Pictures that are more than tensors: subclasses that carry metadata, or make tensors of their own kind everywhere."""

import captum.attr as captum_attr
import pytest
import torch
from torch import nn
from torchvision import tv_tensors

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics


class Picture(torch.Tensor):
    """Carries a note through every operation, as medical volumes carry their affine."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs)
        note = next((a.note for a in args if isinstance(a, Picture) and hasattr(a, "note")), None)
        if isinstance(out, Picture) and note is not None:
            out.note = note
        return out


class Strict(torch.Tensor):
    """Unhappy with everything that a picture has no business with."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("view_as", "untyped_storage"):
            raise TypeError("not for pictures")
        return super().__torch_function__(func, types, args, kwargs)


class Video(tv_tensors.Image):
    pass


def noted(t):
    t = t.as_subclass(Picture)
    t.note = "sagittal"
    return t


KINDS = {
    "metadata": noted,
    "strict": lambda t: t.as_subclass(Strict),
    "torchvision's": tv_tensors.Image,
    "below torchvision's": lambda t: t.as_subclass(Video),
    "parameter": lambda t: nn.Parameter(t),
}


class Inside(nn.Module):
    """A model that makes such tensors of plain ones."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(noted(x))


METHODS = {
    "NormGrad": lambda net, layer: cea.NormGrad(net, layer),
    "conv3x3": lambda net, layer: cea.ExtractAggregate(net, layer, extract="conv3x3", aggregate="filter_norm"),
    "real layer": lambda net, layer: cea.NormGrad(net, net.get_submodule(layer), virtual_identity=False),
    "GradCAM": lambda net, layer: cea.GradCAM(net, layer),
    "GradCAM++": lambda net, layer: cea.GradCAMPlusPlus(net, layer),
    "GradMid": lambda net, layer: cea.GradMid(net, layer),
    "activity": lambda net, layer: cea.ActivityAttribution(net, layer),
    "bias": lambda net, layer: cea.BiasAttribution(net, layer),
    "gradient at the input": lambda net, layer: cea.LayerGradient(net),
    "FullGrad": lambda net, layer: cea.FullGrad(net),
    "AggregatedActivity": lambda net, layer: cea.AggregatedActivity(net, [layer], include_input=True),
    "CumulativeGradMid": lambda net, layer: cea.CumulativeGradMid(net, [layer]),
    "guided": lambda net, layer: cea.GuidedBackprop(net),
    "RectGrad": lambda net, layer: cea.RectGrad(net, layer, percentile=50),
    "LRP": lambda net, layer: cea.LRP(net, gamma=0.1),
    "excitation": lambda net, layer: cea.ExcitationBackprop(net, layer),
    "contrastive": lambda net, layer: cea.ContrastiveExcitationBackprop(net, layer),
    "combination": lambda net, layer: cea.LayerCombination(cea.NormGrad(net, [layer])),
    "meta-saliency": lambda net, layer: cea.MetaSaliency(cea.NormGrad(net, layer)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_the_maps_are_those_of_plain_tensors(name, kind, small_net, images):
    method = METHODS[name](small_net, "conv2")
    expected = method.attribute(images, target=1)
    given = KINDS[kind](images.clone())
    got = method.attribute(given, target=1)
    assert type(got) is torch.Tensor
    assert torch.equal(got, expected)
    assert not got.requires_grad
    assert torch.equal(given.detach().as_subclass(torch.Tensor), images)


@pytest.mark.parametrize("name", METHODS)
def test_models_that_make_them(name, small_net, images):
    expected = METHODS[name](small_net, "conv2").attribute(images, target=1)
    got = METHODS[name](Inside(small_net), "model.conv2").attribute(images, target=1)
    assert type(got) is torch.Tensor
    assert torch.equal(got, expected)


def test_the_model_still_gets_what_it_was_given(small_net, images):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.notes = small_net, []
            small_net.conv3.register_forward_hook(lambda m, args, out: self.notes.append(args[0].note))

        def forward(self, x):
            self.notes.append(x.note)
            return self.inner(x)

    model = Reads()
    cea.NormGrad(model, ["inner.conv1", "inner.relu1", "inner.bn"]).attribute(noted(images), target=1)
    assert set(model.notes) == {"sagittal"}


def test_measures(small_net, images):
    method = cea.NormGrad(small_net, "conv2")
    for measure in (
        lambda x: metrics.class_sensitivity(method, x, small_net),
        lambda x: metrics.pixel_removal(small_net, x, method.attribute(x, target=1), step=16).e,
        lambda x: metrics.as_input_attribution(method).attribute(x, target=1)[0],
    ):
        torch.testing.assert_close(measure(noted(images)), measure(images))


def test_captum_agrees(small_net, images):
    got = cea.LinearApproximation(small_net, "conv2").attribute(noted(images), target=1)
    captums = captum_attr.LayerGradientXActivation(small_net, small_net.conv2)
    expected = captums.attribute(images, target=1).sum(1, keepdim=True)
    torch.testing.assert_close(got, expected.detach())
