"""On which network and images an experiment runs, and what is kept."""

import torch

from captum_extract_aggregate.reproduction import (
    Request,
    carry_out,
    settings_of,
)
from captum_extract_aggregate.reproduction.setting import network_blocks


def test_the_same_twice_comes_from_what_is_kept(setting):
    first = carry_out("k20-table2", setting)
    results = sorted((setting.folder / "results").iterdir())
    assert carry_out("k20-table2", setting).tables == first.tables
    assert sorted((setting.folder / "results").iterdir()) == results


def test_blocks_cover_every_parameter():
    for setting in settings_of(Request(("all",))):
        blocks = [setting.network.get_submodule(name) for name in setting.stages]
        assert blocks == network_blocks(setting.network)
        held = {id(p) for block in blocks for p in block.parameters()}
        assert held == {id(p) for p in setting.network.parameters()}


def test_the_network_is_as_it_was(setting):
    before = {name: value.clone() for name, value in setting.network.state_dict().items()}
    carry_out("r20-fig8", setting)
    assert all(torch.equal(before[name], value) for name, value in setting.network.state_dict().items())
