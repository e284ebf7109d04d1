"""Composites by name equal zennit's; biases of AlphaBeta; the pass rule."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate import rules
from captum_extract_aggregate.rules import AlphaBeta, Identity
from tests.attr.propagation.cases import TARGET, network, pictures
from tests.conftest import relative_error
from tests.networks import lively, vgg11

LOW, HIGH = -4.0, 4.0
NAMES = ("EpsilonPlus", "EpsilonPlusFlat", "EpsilonAlpha2Beta1", "EpsilonAlpha2Beta1Flat", "EpsilonGammaBox")


def residual_sums(name, module):
    """For zennit, which sees modules alone: MobileNetV2's sums as modules."""
    from torchvision.models.mobilenetv2 import InvertedResidual
    from zennit.layer import Sum

    if not isinstance(module, InvertedResidual) or not module.use_res_connect:
        return None
    total = Sum()
    return {"sum": total, "forward": lambda x: total(torch.stack([x, module.conv(x)], dim=-1))}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "mobilenet_v2", "vgg11", "vgg11_bn")]


@pytest.mark.parametrize("net_name", ["squeezenet1_1", "resnet18", *SLOW])
def test_against_zennit(net_name):
    pytest.importorskip("zennit")
    from zennit import attribution, canonizers, composites
    from zennit import torchvision as of_torchvision

    net = lively(vgg11(batch_norm=True)).double() if net_name == "vgg11_bn" else network(net_name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.abs_()
            module.eps = 1e-30  # nothing: zennit before 1.0 leaves it in the merged one, and PyTorch 2.11 refuses 0
    # So small that MobileNetV2's last average, a function that zennit does not see, is of one position.
    x = pictures(net, 1).clamp(LOW, HIGH)[..., :32, :32]
    canonizer = {
        **{name: [of_torchvision.VGGCanonizer()] for name in ("vgg11", "vgg11_bn")},
        "squeezenet1_1": [],
        "mobilenet_v2": [canonizers.SequentialMergeBatchNorm(), canonizers.AttributeCanonizer(residual_sums)],
    }.get(net_name, [of_torchvision.ResNetCanonizer()])
    logits = net(x).detach()
    seed = torch.zeros_like(logits)
    seed[:, TARGET] = logits[:, TARGET]
    for name in NAMES if net_name != "resnet50" else NAMES[1:3]:
        box = {"low": torch.full_like(x, LOW), "high": torch.full_like(x, HIGH)} if name == "EpsilonGammaBox" else {}
        theirs = getattr(composites, name)(canonizers=canonizer, epsilon=1e-6, stabilizer=1e-30, **box)
        with attribution.Gradient(net, theirs) as attributor:
            _, expected = attributor(x, seed)
        own_box = {"low": LOW, "high": HIGH} if box else {}
        ours = getattr(rules, name)(epsilon=1e-6, stabilizer=1e-30, **own_box)
        got = cea.LRP(net, stabilizer=1e-30, rules=ours).attribute(x, target=TARGET)
        assert relative_error(got, expected) < 1e-6, name


def test_a_composite_is_a_mapping_for_a_network():
    net = network("resnet18")
    composite = rules.EpsilonPlusFlat(epsilon=0.1)
    written = composite.rules(net)
    assert written["conv1"] == rules.Flat()
    assert written[nn.Linear] == rules.Epsilon(0.1)
    x = pictures(net, 1)
    method = cea.LRP(net, rules=composite)
    assert torch.equal(method.attribute(x, target=1), cea.LRP(net, rules=written).attribute(x, target=1))
    assert "rules=EpsilonPlusFlat(epsilon=0.1" in repr(method)
    with pytest.raises(TypeError, match="rule for the first layer"):
        cea.LRP(lambda x: x.flatten(1), rules=composite)
    passed = {**rules.EpsilonPlus().rules(net), nn.BatchNorm2d: "identity"}
    merged = cea.LRP(net, rules=rules.EpsilonPlus()).attribute(x, target=1)
    assert relative_error(cea.LRP(net, rules=passed).attribute(x, target=1), merged) > 1e-3


def test_biases_of_alpha_beta():
    """1 x 3 + 1 x -1 + bias 2: of 5, the input that excites gets 3/5, and without the bias all."""
    layer = nn.Linear(2, 1).double()
    layer.weight.data, layer.bias.data = torch.tensor([[3.0, -1.0]]).double(), torch.tensor([2.0]).double()
    x = torch.ones(1, 2, dtype=torch.float64)
    for bias, expected in ((True, 4 * 3 / 5), (False, 4.0)):
        rule = AlphaBeta(1, 0, epsilon=0, bias=bias)
        got = cea.LRP(layer, rules={nn.Linear: rule}).attribute(x, target=0)
        torch.testing.assert_close(got, torch.tensor([[expected, 0]], dtype=torch.float64))


def test_identity():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    x = torch.rand(2, 3, dtype=torch.float64)
    rule = {"0": Identity()}
    assert torch.equal(cea.LRP(net, rules=rule).attribute(x, 1), cea.LRP(net[1:]).attribute(net[0](x).detach(), 1))
    with pytest.raises(ValueError, match="keeps the shape"):
        cea.LRP(net, rules={"2": Identity()}).attribute(x, 1)
