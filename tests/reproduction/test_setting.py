"""On which network and images an experiment runs, and what is kept."""

from dataclasses import replace

import torch
from torch import nn

from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, ModelPlan
from captum_extract_aggregate.reproduction import (
    Request,
    carry_out,
    settings_of,
)
from captum_extract_aggregate.reproduction.setting import network_blocks, voc_like


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


def test_rules_for_rectifiers_have_something_to_act_on_where_something_is_rectified(setting):
    assert setting.rectifies
    gated = replace(setting, model=ModelPlan("scene-vit"))
    for module in list(gated.network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
    assert not gated.rectifies


def test_images_are_evenly_spread_and_come_in_batches(setting):
    """Of sixteen scenes three: the first, one in the middle (seven and a half is rounded to eight), the last."""
    assert [sample.image for sample in setting.samples(3)] == [0, 8, 15]
    assert len(list(setting.samples(99))) == 16
    batches = list(setting.batches(5, 2))
    assert [len(x) for x, _ in batches] == [2, 2, 1]
    present = [set(sample.pairs.classes) for sample in setting.samples(5)]
    known = torch.cat([classes for _, classes in batches])
    assert [set(row.nonzero().flatten().tolist()) for row in known] == present
    blind = replace(setting, has_objects=False)
    assert torch.cat([y for _, y in blind.batches(5)]).tolist() == [s.label for s in setting.samples(5)]


def test_layers_are_those_asked_for_or_at_most_four(setting):
    assert replace(setting, wanted_layers=("conv1",)).layers == ("conv1",)
    deep = replace(setting, name="scene-vit", model=ModelPlan("scene-vit"))
    found = list(default_layers(deep.network, deep.first.x[None]))
    assert len(setting.layers) == 4
    assert len(deep.layers) == min(4, len(found))
    assert (deep.layers[0], deep.layers[-1]) == (found[0], found[-1])


def test_what_a_network_does_not_support_is_said_and_left_out(setting):
    assert setting.supports(MethodPlan("gradcam")) == ""
    wrong = MethodPlan("gradcam", "wrong", arguments={"gama": 1})
    assert "gama" in setting.supports(wrong)
    found = setting.evaluate([MethodPlan("gradcam"), wrong], [MeasurePlan("class_sensitivity")], "stages")
    assert {row.method for row in found.maps()} == {"gradcam"}
    assert found.expected == setting.sizes["stages"]


def test_pixel_removal_takes_images_of_one_size(setting):
    assert voc_like(setting) == setting.data
    voc = replace(setting, data=DataPlan("voc", "somewhere", n=3))
    assert voc_like(voc) == DataPlan("voc", "somewhere", n=3, resize="square")
