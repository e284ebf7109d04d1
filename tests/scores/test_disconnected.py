"""DiFull and DiPart: the literal reference, what cannot have a part in a score, every layout, and any method."""

import captum.attr
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import grid_pointing_game
from captum_extract_aggregate.scores import DiFull, DiPart
from tests.reference import disconnected as reference


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(4, 30, 3, 2, 1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(30, 5)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


class Tokens(nn.Module):
    """Patches as tokens behind a class token, which alone makes the score; pictures of any size."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(2, 8, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True) for _ in range(3)])
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(torch.cat([self.class_token.expand(len(x), -1, -1), patches], 1))[:, 0])


class ChannelsLast(Net):
    """Its second stage gives `N x H x W x C`."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(30)

    def forward(self, x):
        return self.fc(self.norm(self.second(self.first(x)).permute(0, 2, 3, 1)).mean((1, 2)))


def made(kind):
    torch.manual_seed(0)
    return kind().double().eval()


def grids(count=2, height=16, width=24):
    return torch.randn(count, 2, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", [DiFull, DiPart])
@pytest.mark.parametrize(("layer", "name"), [(1, "first"), (2, "second")])
def test_the_reference(kind, layer, name):
    net, x, cells, targets = made(Net), grids(), torch.tensor([3, 1]), [4, 0]
    stages, head = [net.first, net.second], lambda t: net.fc(t.mean((2, 3)))
    wrapped = kind(net, n=2)
    given = {"target": targets, "additional_forward_args": cells}
    linear, gradcam = (m(wrapped, name).attribute(x, **given) for m in (cea.LinearApproximation, cea.GradCAM))
    literal = getattr(reference, kind.__name__.lower())
    for i in range(2):
        a, g, scores = literal(stages, head, x[i : i + 1], 2, int(cells[i]), targets[i], layer)
        torch.testing.assert_close(wrapped(x, cells)[i], scores[0])
        torch.testing.assert_close(linear[i], (a * g).sum(1), rtol=0, atol=1e-10)
        torch.testing.assert_close(gradcam[i], (a * g.mean((2, 3), True)).sum(1).relu(), rtol=0, atol=1e-10)
        alone = cea.GradCAM(kind(net, n=2, cell=int(cells[i])), name).attribute(x[i : i + 1], target=targets[i])
        torch.testing.assert_close(gradcam[i : i + 1], alone, rtol=0, atol=1e-12)


def test_a_map_of_the_whole_grid_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(net[0].weight, 2.0)
    grid = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    wrapped = DiFull(net, n=2, cell=2)
    assert wrapped(grid).tolist() == [[6.0]]
    # Of one pixel a cell: the cell's score has the gradient 1 there, so GradCAM weighs all by a quarter.
    assert cea.LinearApproximation(wrapped, "0").attribute(grid, target=0).tolist() == [[[[0, 0], [6, 0]]]]
    gradcam = cea.GradCAM(wrapped, "0").attribute(grid, target=0)
    assert gradcam.tolist() == [[[[0.5, 1.0], [1.5, 2.0]]]]
    assert grid_pointing_game(gradcam, [2], n=2).item() == pytest.approx(0.3)


@pytest.mark.parametrize(("net", "layer"), [(Net, "second"), (Tokens, "blocks.1"), (ChannelsLast, "norm")])
def test_what_cannot_have_a_part_is_zero(net, layer):
    model, x = made(net), grids()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    wrapped = DiFull(model, n=2, cell=1)
    torch.testing.assert_close(wrapped(x), model(x[..., :8, 12:]))
    maps = cea.NormGrad(wrapped, layer).attribute(x, target=3)
    assert maps.shape[2] / maps.shape[3] == 16 / 24
    assert grid_pointing_game(maps, [1, 1], n=2).tolist() == [1, 1]
    torch.testing.assert_close(  # the cell's part is what the network has of the picture
        maps[..., : maps.shape[2] // 2, maps.shape[3] // 2 :],
        cea.NormGrad(model, layer).attribute(x[..., :8, 12:], target=3),
        rtol=1e-10,
        atol=1e-14,
    )
    together = cea.NormGrad(wrapped, [layer, None] if net is Tokens else ["first", layer, None])
    torch.testing.assert_close(together.attribute(x, target=3)[-2], maps, rtol=1e-10, atol=1e-14)
    moved = x.clone()
    moved[..., :, :12] += 1
    torch.testing.assert_close(wrapped(moved), wrapped(x), rtol=0, atol=0)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_captums_methods_and_ours_at_inputs_and_outputs():
    net, x = made(Net), grids()
    wrapped = DiFull(net, n=2)
    given = {"target": 2, "additional_forward_args": torch.tensor([0, 3])}
    for kind in (captum.attr.LayerGradCam, captum.attr.LayerActivation, captum.attr.LayerIntegratedGradients):
        extra = (
            {"additional_forward_args": given["additional_forward_args"]} if "Activation" in kind.__name__ else given
        )
        found = kind(wrapped, net.second).attribute(x, **extra)
        assert found.shape[2:] == (8, 12)
    torch.testing.assert_close(
        captum.attr.LayerGradCam(wrapped, net.second).attribute(x, **given),
        cea.GradCAM(wrapped, "second").attribute(x, **given, relu_attributions=False),
    )
    at_input = cea.LinearApproximation(wrapped, "second").attribute(x, attribute_to_layer_input=True, **given)
    torch.testing.assert_close(at_input, cea.LinearApproximation(wrapped, "first").attribute(x, **given))
    for method in (
        captum.attr.IntegratedGradients(wrapped),
        cea.ExcitationBackprop(wrapped),
        cea.GuidedBackprop(wrapped),
    ):
        found = method.attribute(x, **given)
        assert found[0, :, :8, :12].any()
        assert not found[0, :, 8:].any()
        assert not found[0, :, :, 12:].any()
        assert not found[1, :, :8].any()
        assert not found[1, :, :, :12].any()
    meta = cea.MetaSaliency(cea.NormGrad(wrapped, "second"), lr=0.1).attribute(x, target=2)
    assert grid_pointing_game(meta, [0, 0], n=2).tolist() == [1, 1]


def test_dipart_is_zero_beyond_receptive_fields_alone():
    net, x = made(Net), grids()
    wrapped = DiPart(net, n=2, cell=0, inputs=x)
    assert wrapped.features_end == "second"
    assert not cea.NormGrad(wrapped, "second").attribute(x, target=1)[..., 4:, :].any()
    at_first = cea.NormGrad(wrapped, "first").attribute(x, target=1)
    assert not at_first[..., 8:, :].any()
    assert not at_first[..., 12:].any()
    at_input = captum.attr.Saliency(wrapped).attribute(x, target=1)
    assert at_input[..., :8, :12].any()
    assert not at_input[..., 9:, :].any()


@pytest.mark.parametrize(("net", "end"), [(Net, "second"), (ChannelsLast, "norm"), (Tokens, "blocks.1"), (None, "0")])
def test_where_the_features_end(net, end):
    if net is None:  # a head that pools to a fixed size, which n divides too
        body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
        model = nn.Sequential(body, nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(48, 5)).double().eval()
    else:
        model = made(net)
    wrapped = DiPart(model, n=2, inputs=grids())
    assert wrapped.features_end == end
    assert wrapped(grids()).shape == (2, 5)
    named = DiPart(model, n=2, cell=3, features=end)
    torch.testing.assert_close(named(grids()), wrapped(grids(), torch.tensor([3, 3])), rtol=0, atol=1e-12)


def test_a_network_of_one_size():
    vit = cea.load_scene_model("vit")
    wrapped = DiPart(vit, n=2)
    assert wrapped.features_end == "blocks.3"


def test_wrong_uses():
    net, x = made(Net), grids()
    for run, message in (
        (lambda: DiFull(net, n=0), "n is 0; expected an integer"),
        (lambda: DiFull(net, n=2, cell=4), "cell is 4; expected an index below 4"),
        (lambda: DiFull(net, n=2)(x, torch.tensor([1, 9])), "cell is 9"),
        (lambda: DiFull(net, n=2)(x, torch.tensor([1, 1, 1])), "cell holds 3 cells for 2 grids"),
        (lambda: DiFull(net, n=5)(x), "expected sides that n divides"),
        (lambda: DiFull(net, n=2)(x[0]), "expected grids of pictures"),
        (lambda: DiPart(net, n=2, features="thrid"), "thrid"),
        (lambda: DiPart(net, n=2, features="fc")(x), "features is 'fc', whose output has the shape"),
        (lambda: DiPart(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).double(), inputs=x, n=2), "features is None"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            run()
