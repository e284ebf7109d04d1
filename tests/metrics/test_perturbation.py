"""What removal and curves share: pixels exchanged in any layout, and orders."""

import pytest
import torch

from captum_extract_aggregate._engine.input_positions import find_positions
from captum_extract_aggregate.metrics import perturbation


def made(x, **kwargs):
    positions = find_positions((x,), [], kwargs.pop("layout", "auto"), dims=2)
    return perturbation.Perturbation(lambda t: t.flatten(1)[:, :2], x, positions, None, **kwargs)


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 5, 4), 1), ((2, 5, 4, 3), 3)])
def test_pixels_are_exchanged_with_all_their_channels(shape, axis):
    x, source = torch.rand(shape), torch.rand(shape)
    of = made(x, max_examples_per_batch=1, layout="channels_first" if axis == 1 else "channels_last")
    assert (of.pixels, len(of.parts)) == (20, 2)
    images = x.clone()
    of.exchange(images, source, torch.tensor([[0, 7], [19, 3]]))
    chosen = torch.zeros(2, 20, dtype=torch.bool)
    chosen[0, [0, 7]] = chosen[1, [19, 3]] = True
    moved = [t.movedim(axis, 1).flatten(2) for t in (x, source, images)]
    assert torch.equal(moved[2], torch.where(chosen[:, None], moved[1], moved[0]))
    assert torch.equal(of.back(of.arrange(source)), source)


def test_orders():
    maps = torch.tensor([[[[1.0, 2.0], [2.0, 0.0]]]])
    assert perturbation.pixel_order(maps, most=True).tolist() == [[1, 2, 0, 3]]
    assert perturbation.pixel_order(maps, most=False).tolist() == [[3, 0, 1, 2]]


def test_checks():
    of = made(torch.rand(1, 1, 4, 4), max_examples_per_batch=None)
    assert torch.equal(of.filled(0.5, "baseline"), torch.full((1, 1, 4, 4), 0.5))
    for run, error, message in (
        (lambda: of.filled(True, "baseline"), TypeError, "baseline is a bool"),
        (lambda: of.filled(torch.zeros(3), "baselines"), ValueError, r"baselines has shape \(3,\)"),
        (lambda: perturbation.check_step(1.5), ValueError, "step is 1.5"),
        (lambda: perturbation.check_inputs([1]), TypeError, "inputs is list"),
        (lambda: perturbation.check_finite(torch.tensor([torch.inf])), ValueError, "in no order"),
    ):
        with pytest.raises(error, match=message):
            run()
