"""A network gets its weights from a file, and another head."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate.data.network_weights import known_weights, load_weights, outputs_of, replace_head


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def saved(path, **tensors):
    torch.save(tensors, path)
    return str(path)


def test_a_name_of_weights_is_taken_in_any_case_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [known_weights(given, ("DEFAULT",)) for given in ("DEFAULT", "default", "a.pt")] == [
        "DEFAULT",
        "DEFAULT",
        "",
    ]
    (tmp_path / "default").touch()
    assert known_weights("default", ("DEFAULT",)) == ""


def test_what_does_not_fit_is_told(net, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({name: value + 1 for name, value in net.state_dict().items()}, path)
    expected = net[3].bias.detach() + 1
    load_weights(net, str(path))
    assert torch.equal(net[3].bias, expected)
    with pytest.raises(ValueError, match="do not fit Sequential"):
        load_weights(net, saved(tmp_path / "b.pt", **{"0.weight": torch.zeros(1), "3.bias": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"weights is 'gone.pt'; expected DEFAULT, 'random', or a file"):
        load_weights(net, "gone.pt")


def test_a_head_takes_the_place_of_the_last_linear_layer(net, tmp_path):
    x, weight, bias = torch.rand(2, 3, 8, 8), torch.randn(7, 4), torch.randn(7)
    features = net[:3](x)
    replace_head(net, saved(tmp_path / "head.pt", weight=weight, bias=bias))
    assert outputs_of(net) == 7
    assert torch.allclose(net(x), features @ weight.T + bias, atol=1e-6)
    assert not net.training


@pytest.mark.parametrize(
    ("weight", "bias", "said"),
    [
        (torch.zeros(7, 9), torch.zeros(7), "takes 9 features, and the last linear layer of Sequential takes 4"),
        (torch.zeros(7, 4), torch.zeros(6), "expected a weight, classes x channels, and a bias"),
        (torch.full((7, 4), torch.nan), torch.zeros(7), "expected finite numbers"),
    ],
)
def test_heads_that_do_not_fit(net, tmp_path, weight, bias, said):
    with pytest.raises(ValueError, match=said):
        replace_head(net, saved(tmp_path / "head.pt", weight=weight, bias=bias))
