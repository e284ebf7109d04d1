"""What is done otherwise on a GPU, done on the CPU: whatever asks where a tensor lies is told "elsewhere"."""

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._common import chunks, tensors
from captum_extract_aggregate._common.seeding import generator_of_gpu, random_state
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate.attr.by_name import METHODS, make_method
from captum_extract_aggregate.attr.propagation.percentile import percentile
from captum_extract_aggregate.attr.propagation.relu_rules import RectifiedGate
from captum_extract_aggregate.bias_study import batches
from captum_extract_aggregate.evaluation import processes
from captum_extract_aggregate.metrics import similarity
from tests.conftest import relative_error
from tests.networks import lively


@pytest.fixture
def elsewhere(monkeypatch):
    """A function after whose call all tensors lie elsewhere; it gives the list of who asked."""

    def go():
        asked = []

        def on_cpu(t):
            asked.append(sys._getframe(1).f_globals["__name__"].removeprefix("captum_extract_aggregate."))
            return False

        for name, module in list(sys.modules.items()):
            if name.startswith("captum_extract_aggregate") and hasattr(module, "on_cpu"):
                monkeypatch.setattr(module, "on_cpu", on_cpu)
        return asked

    return go


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
    expected = {"attr.base", "_engine.recording", "_common.chunks"}
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


def test_gradients_that_would_underflow_are_scaled_without_looking(elsewhere, small_net, images):
    expected = cea.NormGrad(small_net, "conv3").attribute(images, 1)
    elsewhere()
    tiny = cea.NormGrad(lambda x: small_net(x) * 1e-25, small_net.conv3).attribute(images, 1)
    torch.testing.assert_close(tiny * 1e25, expected)
    zero = cea.NormGrad(lambda x: small_net(x) * 0, small_net.conv3).attribute(images, 1)
    assert not zero.any()


ROWS = {
    "ties at both ends": [[3, 1, 1, 2, 3, 3], [0, 0, 0, 5, 4, 4]],
    "all different": [[3, 1, 4, 1.5, 9, 2.6], [6, 5, 4, 3, 2, 1]],
    "all equal": [[7, 7, 7], [0, 0, 0]],
    "two": [[2, 1], [1, 1]],
    "one": [[5], [-5]],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_ranks(rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    expected = torch.from_numpy(rankdata(rows.numpy(), axis=1)) - 1
    assert torch.equal(similarity._ranks_on_device(rows), expected)


@given(n=st.integers(1, 30), distinct=st.integers(1, 30), seed=st.integers(0, 99))
def test_ranks_of_random_rows(n, distinct, seed):
    rows = torch.randint(distinct, (3, n), generator=torch.Generator().manual_seed(seed)).float()
    expected = torch.from_numpy(rankdata(rows.numpy(), axis=1)) - 1
    assert torch.equal(similarity._ranks_on_device(rows), expected)


def test_ranks_need_no_numbers_on_the_host():
    assert similarity._ranks_on_device(torch.rand(2, 5, device="meta")).shape == (2, 5)


def test_similarities_are_the_same(elsewhere):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(5, (4, 1, 6, 6), generator=generator).float() for _ in range(2))
    a[1], b[2, 0, 0, 0] = 3, torch.nan
    expected = [f(a, b) for f in (similarity.spearman, similarity.abs_spearman)]
    assert "metrics.similarity" not in elsewhere()
    for f, wanted in zip((similarity.spearman, similarity.abs_spearman), expected):
        torch.testing.assert_close(f(a, b), wanted, rtol=0, atol=1e-15, equal_nan=True)


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


def test_pieces(elsewhere):
    t = torch.randn(2, 300, 40, 50)
    shares = lambda x: x.square().sum(1, keepdim=True)  # noqa: E731
    assert len(chunks.channel_chunks(t, 1)) > 1
    expected = chunks.over_channels(shares, t)
    elsewhere()
    assert len(chunks.channel_chunks(t, 1)) == 1
    torch.testing.assert_close(chunks.over_channels(shares, t), expected)


def test_where_a_tensor_lies():
    assert tensors.on_cpu(torch.zeros(1))
    assert not tensors.on_cpu(torch.zeros(1, device="meta"))


def test_scores_stay_in_float32_on_apple_s_devices():
    class Apples(torch.Tensor):
        @property
        def device(self):
            return types.SimpleNamespace(type="mps")

    class Net(nn.Module):
        def forward(self, x):
            return x.sum((2, 3)).half().as_subclass(Apples)

    x = torch.rand(2, 3, 4, 4)
    assert batches.outputs_of(Net(), x).dtype == torch.float32
    assert batches.outputs_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), x).dtype == torch.float64


def test_a_pass_keeps_the_state_of_the_generators_of_its_gpus(monkeypatch):
    kept = []
    for name in ("get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, name=name: kept.append((name, *args)) or args[-1])
    lies = lambda *where: types.SimpleNamespace(device=torch.device(*where))  # noqa: E731
    generator_of_gpu.cache_clear()
    with Undo() as undo, undo:
        random_state(undo, [lies("cuda", 1), lies("cpu"), lies("cuda", 0), lies("cuda", 1)])
        assert kept == [("get_rng_state", 0), ("get_rng_state", 1)]
    assert sorted(kept[2:]) == [("set_rng_state", 0, 0), ("set_rng_state", 1, 1)]
    generator_of_gpu.cache_clear()


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
