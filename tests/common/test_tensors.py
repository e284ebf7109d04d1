"""One size, one scale, enough precision, signs."""

import pytest
import torch

from captum_extract_aggregate._common import tensors
from captum_extract_aggregate._common.tensors import is_constant, min_max, same_everywhere, upsample


def test_min_max_and_upsampling():
    m = torch.tensor([[[[1.0, 3], [2, 5]]], [[[7.0, 7], [7, 7]]]])
    scaled = min_max(m)
    assert scaled[0].flatten().tolist() == [0, 0.5, 0.25, 1]
    assert scaled[1].abs().max() == 0
    assert upsample(m, (2, 2)) is m
    assert upsample(m, (4, 6)).shape == (2, 1, 4, 6)
    assert upsample(m[..., 0], (5,)).shape == (2, 1, 5)
    assert upsample(m[:, None], (3, 4, 4)).shape == (2, 1, 3, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_no_map_and_a_faint_map_is_one(dtype):
    ulp = torch.finfo(dtype).eps
    maps = torch.full((2, 1, 3, 3), 0.5, dtype=dtype)
    maps[0, 0, 1, 1] += 0.5 * ulp
    maps[1, 0, 1, 1] += 0.25
    assert is_constant(maps).tolist() == [True, False]
    assert min_max(maps).flatten(1).amax(1).tolist() == [0, 1]


def test_same_everywhere():
    flat = torch.tensor([[1.0, -2.0], [3.0, 0.0]]).reshape(2, 2, 1, 1).expand(2, 2, 3, 4)
    noisy = flat * (1 + 1e-7 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0)))
    assert same_everywhere(flat)
    assert same_everywhere(noisy)
    assert same_everywhere(flat * 1e-20)
    for change in ((0, 0, 1, 1), (1, 1, 1, 1), (1, 0, 2, 3), (0, 1, 0, 0)):
        other = flat.clone()
        other[change] += 1e-3
        assert not same_everywhere(other)
    assert not same_everywhere(flat[..., :1, :1])
    assert not same_everywhere(flat * 0)
    assert not same_everywhere(flat[:0])
    assert same_everywhere(torch.cat([flat, flat[:1] * 0]))
    assert not same_everywhere(flat.to("meta"))  # a device that must not be asked


def test_where_a_tensor_lies():
    assert tensors.on_cpu(torch.zeros(1))
    assert not tensors.on_cpu(torch.zeros(1, device="meta"))
