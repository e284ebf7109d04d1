"""One more forward, which shows of what the dimensions at a place are made."""

import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.look import one_more_forward
from captum_extract_aggregate._engine.parts import Part
from captum_extract_aggregate._engine.taps import Place
from tests.engine.arranged import PICTURE, channels_last, of_convolution
from tests.networks import Tables


def test_the_model_is_looked_at_without_a_trace():
    net = of_convolution(lambda t: t.permute(0, 2, 3, 1), channels_last)
    net.register_buffer("calls", torch.zeros(()))
    calls = []
    net.register_forward_pre_hook(lambda module, args: calls.append(torch.is_grad_enabled()))
    state = torch.get_rng_state()
    cea.NormGrad(net, "inner").attribute(torch.randn(2, *PICTURE, generator=torch.Generator().manual_seed(0)), 1)
    assert len(calls) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.inner._forward_hooks
    calls.clear()
    cea.NormGrad(net, "inner.c").attribute(torch.randn(2, *PICTURE), 1)  # no doubt there
    assert len(calls) == 1


def test_a_single_example_is_looked_at_in_company():
    """Its dimension has a part of size 1, wherever it is, and a table of no input is seen to stay as it is."""
    net, x = Tables().eval(), torch.randn(1, 3, 16, 16)
    places = [Place(net.patches), Place(net.qkv), Place(net.table)]
    look = one_more_forward(net, (x,), places, ())
    assert look.dims[places[0]][0][0] == (Part("batch", 1),)
    assert [look.lengths[place] for place in places] == [[2], [2], [1]]
    sequence = nn.Sequential(
        nn.Flatten(2), Turned(), nn.Linear(3, 4), Turned(), nn.Flatten(), nn.Linear(1024, 2)
    ).eval()
    place = Place(sequence[1])
    assert one_more_forward(sequence, (x,), [place], ()).dims[place][0][1] == (Part("batch", 1),)


class Turned(nn.Module):
    """Puts the positions before the examples, and back."""

    def forward(self, x):
        return x.permute(2, 0, 1) if x.shape[1] == 3 else x.permute(1, 2, 0)


class OneByOne(Turned):
    """Takes one example at a time."""

    def forward(self, x):
        if len(x) > 1:
            raise RuntimeError("one example at a time")
        return super().forward(x)


def test_a_model_of_one_example_at_a_time_is_looked_at_as_it_is():
    model, x = nn.Sequential(nn.Flatten(2), OneByOne(), nn.Linear(3, 4)).eval(), torch.randn(1, 3, 4, 4)
    look = one_more_forward(model, (x,), [Place(model[1])], ())
    assert look.dims[Place(model[1])][0][1] == ()
    assert look.lengths == {}


def test_a_function_that_takes_the_first_example_alone_has_its_maps():
    torch.manual_seed(0)
    net, x = Tables().eval(), torch.randn(1, 3, 16, 16)
    of_first = cea.LinearApproximation(lambda x: net(x[0][None]), net.norm).attribute(x, 1)
    assert torch.equal(of_first, cea.LinearApproximation(net, "norm").attribute(x, 1))


def test_what_is_given_beside_a_single_example_is_doubled_too():
    model, x = Tables().eval(), torch.randn(1, 3, 16, 16)
    place = Place(model.patches)

    def forward_func(x, scale):
        return model(x * scale.reshape(len(x), 1, 1, 1))

    assert one_more_forward(forward_func, (x,), [place], (torch.ones(1),)).lengths == {place: [2]}


@pytest.mark.parametrize(
    ("make", "layer", "forwards"),
    [
        (lambda: torchvision.models.resnet18(num_classes=4), "layer2", 1),
        (lambda: torchvision.models.VisionTransformer(16, 4, 1, 2, 12, 24, num_classes=4), "encoder.layers", 1),
        (Tables, "patches", 1),
        (Tables, "norm", 2),  # channels last, as of a table
    ],
)
def test_of_a_single_example_too_only_what_is_in_doubt_is_looked_at(make, layer, forwards):
    net, calls = make().eval(), []
    net.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    x = torch.randn(1, 3, 16, 16)
    for _ in range(3):  # and once for as long as the layer lives
        cea.LinearApproximation(net, layer).attribute(x, 1)
    assert calls == [1, 2][:forwards] + [1, 1]
