"""What is known about the place of an activation."""

import torch

from captum_extract_aggregate._engine.input_positions import find_positions
from captum_extract_aggregate._engine.surroundings import image_size


def test_the_picture_among_the_inputs():
    assert image_size((torch.zeros(2, 5), torch.zeros(2, 3, 40, 30))) == (40, 30)
    assert image_size((torch.zeros(2, 40, 30, 3),)) == (40, 30)
    assert image_size((torch.zeros(2, 3, 8, 40, 30),)) == (8, 40, 30)
    assert image_size((torch.zeros(2, 5, 6, 4),)) == (6, 4)
    assert image_size((torch.zeros(2, 5),)) == ()


def test_sizes_of_views_and_of_signals_without_channels():
    assert image_size((torch.zeros(2, 16, 3, 32, 24),)) == (16, 32, 24)
    assert image_size((torch.zeros(2, 3, 16, 32, 24),)) == (16, 32, 24)
    assert find_positions((torch.zeros(2, 500),), [(500,)]).size == (500,)
    assert find_positions((torch.zeros(2, 3, 500),), [(500,)]).size == (500,)
