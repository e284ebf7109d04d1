"""Aggregates: closed forms, functions of the multiplied-out rows, and names that users register."""

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.extract_aggregate import extract as ex
from captum_extract_aggregate.attr.extract_aggregate.aggregate import (
    AGGREGATES,
    aggregate,
    register_aggregate,
    unregister_aggregate,
)
from tests.attr.extract_aggregate.cases import VIRTUAL, draw_tensor


def test_callable_aggregate_sees_the_parameter_s_shape():
    x, g = draw_tensor(0, 2, 3, 4, 5), draw_tensor(1, 2, 3, 4, 5)
    shapes = []

    def spectral_norm(rows):
        shapes.append(tuple(rows.shape[1:]))
        return torch.linalg.matrix_norm(rows, 2)

    got = aggregate(ex.virtual_extract("conv1x1")(ex.Pair(x, g)), spectral_norm)
    assert shapes == [(3, 3)]
    assert torch.allclose(got, (x.norm(dim=1) * g.norm(dim=1)).unsqueeze(1))  # of a rank-one matrix: both norms
    with pytest.raises(ValueError, match="one number per row"):
        aggregate(ex.virtual_extract("conv1x1")(ex.Pair(x, g)), lambda rows: rows.sum(-1))


def test_callable_aggregate_runs_in_bounded_pieces(monkeypatch):
    monkeypatch.setattr("captum_extract_aggregate.attr.extract_aggregate.aggregate._CHUNK", 30)
    x, g = draw_tensor(0, 2, 3, 4, 5), draw_tensor(1, 2, 3, 4, 5)
    summand = ex.virtual_extract("conv1x1")(ex.Pair(x, g))
    sizes = []

    def norm(rows):
        sizes.append(rows.numel())
        return rows.flatten(1).norm(dim=1)

    assert torch.allclose(aggregate(summand, norm), aggregate(summand, "norm"))
    assert max(sizes) <= 30


def test_maps_of_one_pass_have_memory_of_their_own(small_net, images):
    """Methods share what they have in common; what one hands out must not be another's."""
    for extract in VIRTUAL:
        methods = {
            f"{how} {i}": cea.ExtractAggregate(small_net, "conv2", extract=extract, aggregate=how)
            for how in AGGREGATES
            for i in range(2)
        }
        maps = cea.attribute_together(methods, images, 1)
        assert len({m.untyped_storage().data_ptr() for m in maps.values()}) == len(maps), extract


def zero(summand):
    return summand.total(torch.abs) * 0


@pytest.mark.parametrize("name", sorted(AGGREGATES))
def test_an_aggregate_s_name_that_is_taken_is_an_error(tables, small_net, images, name):
    method = cea.ExtractAggregate(small_net, "conv3", aggregate=name)
    own, before = AGGREGATES[name], method.attribute(images, 1)
    with pytest.raises(ValueError, match=rf"'{name}', which is taken; .* overwrite=True, .*unregister_aggregate"):
        register_aggregate(name)
    assert AGGREGATES[name] is own
    register_aggregate(name, overwrite=True)(zero)
    assert not method.attribute(images, 1).any()  # of methods that were made before, too
    register_aggregate(name, overwrite=True)(lambda summand: summand.total(torch.abs) * 0 + 1)
    unregister_aggregate(name)
    assert AGGREGATES[name] is own  # not what was there in between
    assert torch.equal(method.attribute(images, 1), before)
    unregister_aggregate(name)
    assert AGGREGATES[name] is own


def test_an_aggregate_of_one_s_own_comes_and_goes(tables, small_net, images):
    register = register_aggregate("mine")
    register(zero)
    with pytest.raises(ValueError, match="'mine', which is taken"):
        register(zero)  # as a second definition under the name would
    assert not cea.LayerGradient(small_net, "conv3", aggregate="mine").attribute(images, 1).any()
    unregister_aggregate("mine")
    with pytest.raises(ValueError, match="'mine', which is unknown"):
        cea.LayerGradient(small_net, "conv3", aggregate="mine")
    with pytest.raises(ValueError, match="'mine', which is unknown"):
        unregister_aggregate("mine")
    with pytest.raises(TypeError, match="name is 3"):
        register_aggregate(3)
