"""One size, one scale, enough precision, signs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def test_upsampling_is_linear_between_the_pixels():
    row = torch.tensor([[[0.0, 4.0]]])
    assert upsample(row, (4,)).flatten().tolist() == [0, 1, 3, 4]  # pixels' middles, held at the ends
    assert upsample(row, (5,), align_corners=True).flatten().tolist() == [0, 1, 2, 3, 4]
    picture = row[..., None, :].expand(1, 1, 2, 2)
    torch.testing.assert_close(upsample(picture, (3, 4)), upsample(row, (4,))[:, :, None].expand(1, 1, 3, 4))
    with pytest.raises(ValueError, match=r"2 position dimensions cannot be brought to the size \(4,\)"):
        upsample(picture, (4,))


def test_extremes_and_magnitudes_are_each_example_s():
    t = torch.tensor([[[1.0, -7.0], [3.0, 2.0]], [[0.0, 5.0], [4.0, 9.0]]])
    assert [found.tolist() for found in tensors.extremes(t)] == [[-7, 0], [3, 9]]
    assert tensors.magnitudes(t).tolist() == [7, 9]
    assert [found.tolist() for found in tensors.extremes(t[:1])] == [[-7], [3]]
    assert [found.tolist() for found in tensors.extremes(torch.tensor(2.0))] == [[2], [2]]
    assert [found.tolist() for found in tensors.extremes(torch.tensor([2.0, -1.0]))] == [[2, -1], [2, -1]]


def test_how_far_a_constant_map_spreads_is_not_to_be_divided_by():
    m = torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])
    low, spread = tensors.low_and_spread(m)
    assert low.shape == spread.shape == (2, 1, 1)
    assert (low.flatten().tolist(), spread.flatten().tolist()) == ([1, 2], [2, float("inf")])
    assert min_max(m, eps=2).flatten().tolist() == [0, 0.5, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_where_positive_is_the_backward_of_a_relu(dtype):
    t, chooser = torch.tensor([1.0, -2, 3, 4], dtype=dtype), torch.tensor([1.0, 0.5, 0, -1], dtype=dtype)
    x = chooser.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.relu(x), x, t)
    assert tensors.where_positive(t, chooser).tolist() == expected.tolist() == [1, -2, 0, 0]


def test_half_precision_is_summed_in_single():
    dtypes = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}
    for given, expected in dtypes.items():
        assert tensors.at_least_float32(torch.ones(2, dtype=given)).dtype == expected
    t = torch.ones(2)
    assert tensors.at_least_float32(t) is t


def test_tame_numbers_can_be_squared():
    assert tensors.are_tame([1e-5, 3.0, 1e5])
    assert not tensors.are_tame([1e-7, 1.0])
    assert not tensors.are_tame([1.0, 1e7])


def test_plain_tensors_share_their_numbers():
    class Picture(torch.Tensor):
        pass

    t, parameter = torch.arange(3.0), nn.Parameter(torch.ones(2))
    picture = t.as_subclass(Picture)
    found = tensors.plain(picture)
    assert type(found) is torch.Tensor
    assert found.data_ptr() == t.data_ptr()
    assert tensors.plain(t) is t
    assert tensors.plain(parameter) is parameter
