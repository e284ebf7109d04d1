"""Maps that know nothing."""

import torch

from captum_extract_aggregate.attr.by_name import find_method
from captum_extract_aggregate.evaluation.choice.nulls import CentreMap, EdgeMap, RandomMap, null_plans

MODEL = torch.nn.Linear(1, 1)


def test_a_random_map_is_another_each_time_and_the_same_from_the_same_seed():
    x = torch.zeros(3, 2, 28, 20)
    torch.manual_seed(5)
    null = RandomMap(MODEL)
    first, second = null.attribute(x, target=1), null.attribute(x, target=1)
    torch.rand(7)  # whatever else is drawn
    torch.manual_seed(6)
    other = null.attribute(x)
    torch.manual_seed(5)
    again = null.attribute(x)
    assert first.shape == (3, 1, 28, 20)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_the_centre_is_largest_in_the_middle_and_0_in_a_corner():
    m = CentreMap(MODEL).attribute(torch.zeros(2, 3, 9, 9))
    assert m.shape == (2, 1, 9, 9)
    assert int(m[1, 0].argmax()) == 40
    assert float(m.min()) == 0


def test_edges_are_where_the_input_changes():
    x = torch.zeros(1, 3, 6, 8)
    x[..., 4:] = 1
    m = EdgeMap(MODEL).attribute(x)
    assert torch.equal(m[0, 0], torch.tensor([0.0, 0, 0, 4, 4, 0, 0, 0]).expand(6, 8))


def test_plans_name_them():
    made = [find_method(plan.method) for plan in null_plans()]
    assert [method.make for method in made] == [RandomMap, CentreMap, EdgeMap]
    assert {method.takes for method in made} == {"none"}
