"""What has been told of dimensions."""

import torch

from captum_extract_aggregate._engine.labels import Labels
from captum_extract_aggregate._engine.parts import kinds_of


def of_inputs(shape=(2, 3, 4, 4)):
    labels = Labels(2)
    return labels, labels.of_input(0, torch.zeros(shape))


def kinds(dims):
    return [kinds_of(dim) for dim in dims]


def test_an_input_s_batch_is_known_by_its_size():
    assert kinds(of_inputs()[1]) == [{"batch"}, {"unknown"}, {"unknown"}, {"unknown"}]
    assert kinds(of_inputs((5, 1))[1]) == [{"unknown"}, set()]


def test_what_is_told_once_holds_for_all_that_came_of_the_same_input():
    labels, dims = of_inputs()
    assert labels.told(dims) == dims
    made = labels.made_channels(dims, 1)
    assert kinds(made) == [{"batch"}, {"channel"}, {"axis"}, {"axis"}]
    assert kinds(labels.told(dims)) == kinds(made)


def test_channels_that_are_known_are_not_moved():
    labels, dims = of_inputs()
    made = labels.made_channels(dims, 1)
    assert labels.made_channels(made, 3) == made


def test_features_that_another_dimension_contradicts_are_unknown():
    labels, dims = of_inputs()
    features = (*dims[:3], labels.tell(dims[3], "feature"))
    assert labels.made_channels(features, 1) is None


def test_tensors_tell_together_what_one_of_them_knows():
    labels, unknown = of_inputs()
    other, shape = Labels(2), (2, 3, 4, 4)
    known = other.made_channels(other.of_input(1, torch.zeros(shape)), 1)
    assert kinds(labels.merged([unknown, known], shape)) == [{"batch"}, {"channel"}, {"axis"}, {"axis"}]
    assert kinds(labels.told(unknown)) == [{"batch"}, {"channel"}, {"axis"}, {"axis"}]


def test_tensors_that_contradict_tell_nothing():
    shape = (2, 4, 4)
    labels, dims = of_inputs(shape)
    first = labels.made_channels(dims, 1)
    other = Labels(2)
    last = other.made_channels(other.of_input(1, torch.zeros(shape)), 2)
    assert labels.merged([first, last], shape) is None


def test_another_size_of_a_dimension_is_of_the_same_kind():
    labels, dims = of_inputs()
    made = labels.made_channels(dims, 1)
    assert kinds(labels.resized(made, (2, 6, 9, 1))) == [{"batch"}, {"channel"}, {"axis"}, set()]
    assert kinds(labels.resized(made, (5, 2, 3, 4, 4)))[:3] == [{"axis"}, {"batch"}, {"channel"}]
