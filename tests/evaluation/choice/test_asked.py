"""Questions of a network."""

import torch
from torch import nn

from captum_extract_aggregate.evaluation.choice.asked import of_other_networks, removal_in_steps, step_of


def test_all_parameters_are_drawn_anew_part_by_part():
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2))
    assert of_other_networks(nn.Sequential(inner)).arguments == {"layers": ["0.0", "0.2"], "init": "matched"}
    assert of_other_networks(nn.Sequential(nn.Linear(1, 1))).arguments["layers"] == ["0"]


def test_ten_steps_remove_all_pixels():
    x = torch.zeros(1, 3, 9, 7)
    assert step_of(x) == 7
    assert removal_in_steps(x).arguments == {"step": 7}
