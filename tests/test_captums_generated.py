"""Captum's own generated tests, from the configuration that it ships from 0.9 on, with our classes in place of its own.

Its tests over this configuration ask that targets of a batch are those of its examples one by one, and that no hook is
left behind; besides, maps are Captum's own where both define the same.
"""

import captum.attr as captums
import pytest
import torch

import captum_extract_aggregate as cea

configuration = pytest.importorskip("captum.testing.attr.helpers.test_config", reason="captum.testing comes with 0.9")
helpers = pytest.importorskip("captum.testing.attr.helpers.gen_test_utils")

OURS = {
    captums.LayerGradCam: cea.GradCAM,
    captums.LayerGradientXActivation: cea.LinearApproximation,
    captums.GuidedBackprop: cea.GuidedBackprop,
    captums.Deconvolution: cea.Deconvolution,
    captums.LRP: cea.LRP,
    captums.LayerLRP: cea.LRP,
}
# What Captum's shares R by is not LRP-0: its tests of values are ours (tests/attr/propagation).
OTHER_VALUES = (captums.LRP, captums.LayerLRP)
CASES = {
    f"{entry['name']}-{algorithm.__name__}{'-noise' * bool(entry.get('noise_tunnel'))}": (entry, algorithm)
    for entry in configuration.config
    for algorithm in entry["algorithms"]
    if algorithm in OURS
}


def one_position(t):
    """Units as the channels of one position."""
    return t.unsqueeze(2)


def made(method, entry, **options):
    _, model, _, layer, in_tunnel, _ = helpers.parse_test_config(entry)
    places = () if layer is None else (helpers.get_target_layer(model, layer),)
    built = method(model, *places, **options)
    return captums.NoiseTunnel(built) if in_tunnel else built


def tensors(maps):
    return [t for m in maps for t in tensors(m)] if isinstance(maps, (tuple, list)) else [maps.detach()]


def attributed(method, arguments):
    torch.manual_seed(0)  # of noise tunnels
    found = method.attribute(**arguments)
    is_pair = arguments.get("return_convergence_delta", False)
    return tensors(found[0] if is_pair else found)


def has_positions(entry):
    """Whether the layer has a map of its own; for linear layers Captum's methods give a number per unit."""
    return "layer" not in entry or "conv" in str(entry["layer"])


def single(value, i, examples):
    if isinstance(value, torch.Tensor):
        return value[i : i + 1] if value.ndim and len(value) == examples else value
    if isinstance(value, tuple):
        return tuple(single(v, i, examples) for v in value)
    return value


@pytest.mark.parametrize("case", CASES)
def test_captums_generated(case):
    entry, algorithm = CASES[case]
    _, model, arguments, _, in_tunnel, _ = helpers.parse_test_config(entry)
    options = {} if has_positions(entry) else {"layout": one_position}
    ours = made(OURS[algorithm], entry, **options)
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks)) for m in model.modules()]
    if not has_positions(entry):
        with pytest.raises(cea.CaptumExtractAggregateError, match="no positions"):
            attributed(made(OURS[algorithm], entry), arguments)
    found = attributed(ours, arguments)
    left = [(dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks)) for m in model.modules()]
    assert left == hooks
    if algorithm not in OTHER_VALUES:
        relu = {"relu_attributions": True} if algorithm is captums.LayerGradCam else {}
        expected = attributed(made(algorithm, entry), arguments | relu)
        if algorithm is captums.LayerGradientXActivation:
            expected = [m.sum(1, keepdim=True) for m in expected]
        if not has_positions(entry):
            expected = [m.unsqueeze(2) for m in expected]
        for mine, captum in zip(found, expected, strict=True):
            assert torch.allclose(mine, captum.to(mine.dtype), rtol=1e-4, atol=1e-5)
    targets = arguments.get("target")
    if in_tunnel or not isinstance(targets, (list, torch.Tensor)) or len(targets) == 1:
        return
    for i, target in enumerate(targets.tolist() if isinstance(targets, torch.Tensor) else targets):
        given = {name: single(v, i, len(targets)) for name, v in arguments.items()} | {"target": target}
        for whole, part in zip(found, attributed(ours, given), strict=True):
            assert torch.allclose(whole[i : i + 1], part, rtol=1e-4, atol=1e-5)


def test_all_kinds_are_there():
    assert {algorithm for _, algorithm in CASES.values()} == set(OURS)
    assert len(CASES) > 30
