"""What is done otherwise on a GPU, done on the CPU: whatever asks where a tensor lies is told "elsewhere"."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import METHODS, make_method
from captum_extract_aggregate.attr.propagation.percentile import percentile
from captum_extract_aggregate.attr.propagation.relu_rules import RectifiedGate
from captum_extract_aggregate.evaluation import processes
from tests.conftest import relative_error
from tests.networks import lively

CELLS = [f"{extract}:{how}" for extract in ("conv3x3", "depthwise3x3") for how in ("filter_norm", "max_abs", "max")]


def test_every_method_gives_the_same_maps(elsewhere, small_net, images):
    net, x, layers = lively(small_net).double(), images[:2].double(), ["relu1", "conv3"]

    def found():
        on_any_layer = [name for name in METHODS if not METHODS[name].needs_layers]
        made = {
            name: make_method(name, net, [net.get_submodule(n) for n in layers]) for name in [*on_any_layer, *CELLS]
        }
        return cea.attribute_together(made, x, target=[3, 4])

    expected, asked = found(), elsewhere()
    got = found()
    for name in expected:
        for a, b in zip(*(m if isinstance(m, list) else [m] for m in (got[name], expected[name]))):
            assert b.any()
            assert relative_error(a, b) < 1e-10, name
    expected = {"attr.one_pass", "_engine.recording", "_common.chunks"}
    formulas = {"attr.extract_aggregate.extract", "attr.extract_aggregate.contribution"}
    rules = {"attr.propagation.relu_rules", "attr.propagation.percentile"}
    assert expected | formulas | rules <= set(asked)


def test_a_score_that_is_not_finite_gives_nan_for_its_example_alone(elsewhere, small_net, images):
    images[1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite for example 1"):
        cea.NormGrad(small_net, "conv3").attribute(images, 1)
    elsewhere()
    maps = cea.NormGrad(small_net, ["conv1", "conv3"]).attribute(images, 1)
    for m in maps:
        assert m.flatten(1).isnan().all(1).tolist() == [False, True, False]
        assert m[[0, 2]].isfinite().all()


def test_classes_that_lie_there_are_not_looked_at(elsewhere, small_net, images):
    method = cea.NormGrad(small_net, "conv3")
    expected = {wanted: method.attribute(images, torch.tensor(wanted)) for wanted in ((1, 4, 0), (3,), 2)}
    with pytest.raises(ValueError, match="target 9 is out of range; expected 0 to 4"):
        method.attribute(images, torch.tensor([1, 9, 0]))
    elsewhere()
    for wanted, maps in expected.items():
        torch.testing.assert_close(method.attribute(images, torch.tensor(wanted)), maps)
    assert torch.equal(method.attribute(images, torch.tensor(-1)), method.attribute(images, torch.tensor([4])))
    wrong = method.attribute(images, torch.tensor([1, 9, 0]))
    assert wrong.flatten(1).isnan().all(1).tolist() == [False, True, False]
    torch.testing.assert_close(wrong[0], expected[1, 4, 0][0])
    for mistake, told in ((torch.ones(2), "tensor of torch.float32"), (torch.tensor([1, 2]), "2 entries for 3")):
        with pytest.raises((TypeError, ValueError), match=told):
            method.attribute(images, mistake)


def test_gradients_that_would_underflow_are_scaled_without_looking(elsewhere, small_net, images):
    expected = cea.NormGrad(small_net, "conv3").attribute(images, 1)
    elsewhere()
    tiny = cea.NormGrad(lambda x: small_net(x) * 1e-25, small_net.conv3).attribute(images, 1)
    torch.testing.assert_close(tiny * 1e25, expected)
    zero = cea.NormGrad(lambda x: small_net(x) * 0, small_net.conv3).attribute(images, 1)
    assert not zero.any()


def test_a_class_that_is_not_there_gives_nan_for_its_example_alone(elsewhere, small_net, images):
    method = cea.MetaSaliency(cea.NormGrad(small_net, "conv3"))
    expected = method.attribute(images, [1, 2, 3]), cea.NormGrad(small_net, "conv3").attribute(images, [1, 2, 3])
    elsewhere()
    target = torch.tensor([1, 99, 3])
    for found, right in zip(
        (method.attribute(images, target), method.attribution_method.attribute(images, target)), expected
    ):
        assert found.flatten(1).isnan().all(1).tolist() == [False, True, False]
        torch.testing.assert_close(found[[0, 2]], right[[0, 2]])
    with pytest.raises(ValueError, match="2 entries for 3 examples"):
        method.attribution_method.attribute(images, target[:2])
    per_target = method.attribution_method.attribute_per_target(images, torch.tensor([1, -1]))
    assert torch.equal(per_target[:, 1], method.attribution_method.attribute(images, small_net(images).shape[1] - 1))


def test_relevance_that_no_rule_passes_is_nan(elsewhere, small_net, images):
    def logarithm(x):
        return small_net(x.abs().log())

    with pytest.raises(ValueError, match="no rule for torch"):
        cea.LRP(logarithm).attribute(images, 1)
    elsewhere()
    assert cea.LRP(logarithm).attribute(images, 1).isnan().all()


@given(n=st.integers(1, 40), q=st.one_of(st.sampled_from([0, 50, 98, 100]), st.floats(0, 100)), seed=st.integers(0, 99))
def test_percentiles(n, q, seed):
    values = torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values[1] = values[1].round()
    values[2, : n // 2] = torch.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captum_extract_aggregate.attr.propagation.percentile.on_cpu", lambda t: False)
        found = percentile(values, q)
    torch.testing.assert_close(found, percentile(values, q), equal_nan=True)
    torch.testing.assert_close(found[:2], torch.from_numpy(np.percentile(values[:2].numpy(), q, axis=1)))


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("q", [0, 30, 50, 100])
def test_rectgrad_s_gate_with_ties(elsewhere, magnitude, q):
    generator = torch.Generator().manual_seed(0)
    arriving, a = (torch.randint(-2, 3, (3, 4, 5, 5), generator=generator).double() for _ in range(2))
    arriving[2] = a[2] = 1
    gate = RectifiedGate(q, magnitude)
    expected = gate(arriving, a, 0.0)
    rows = (a * arriving).flatten(1)
    above = (rows.abs() if magnitude else rows) > torch.quantile(rows, q / 100, dim=1, keepdim=True)
    assert torch.equal(expected, arriving.where(above.reshape(arriving.shape), torch.zeros(())))
    elsewhere()
    assert torch.equal(gate(arriving, a, 0.0), expected)
    assert torch.equal(gate(arriving.bfloat16(), a.bfloat16(), 0.0), expected.bfloat16())


def test_each_process_of_a_team_has_its_own_gpu(monkeypatch):
    done = {}
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.update(device=device))
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None: zeros(*size))  # no device is there to be tried
    monkeypatch.setattr(processes, "_store", lambda world: None)
    monkeypatch.setattr(processes.dist, "init_process_group", lambda backend, **kwargs: done.update(backend=backend))
    found = processes.Workers("cuda")
    assert found.device == torch.device("cuda", 1)
    found.__enter__()
    assert done == {"device": torch.device("cuda", 1), "backend": "nccl"}
    assert processes.Workers("cuda:0").device == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no GPU"):
        processes.Workers("cuda")
