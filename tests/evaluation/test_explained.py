"""What measures look at: batches of images, and the maps of one method at one layer."""

import torch
from torch import nn

from captum_extract_aggregate.data.pointing_pairs import PointingPairs
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch
from captum_extract_aggregate.evaluation.images import Sample

TARGETS = torch.tensor([[2, 0], [1, 2]])


def batch():
    x = torch.zeros(2, 3, 4, 4)
    pairs = PointingPairs([0], torch.ones(1, 4, 4, dtype=torch.bool), [False])
    return ImageBatch(
        nn.Identity(), x, [Sample(i, "", x[i], 0, pairs) for i in range(2)], torch.zeros(2, 3), TARGETS, 0
    )


def column(interpolation):
    maps = [torch.arange(8.0).view(2, 1, 2, 2), 10 + torch.arange(8.0).view(2, 1, 2, 2)]
    return Column("m", "l", maps, interpolation)


def test_the_best_class_comes_first():
    assert batch().best.tolist() == [2, 1]
    assert column("nearest").place == ("m", "l")


def test_maps_at_the_image_s_size():
    near = column("nearest").at_image_size(1, batch())
    assert near[0, 0].tolist() == [[10, 10, 11, 11]] * 2 + [[12, 12, 13, 13]] * 2
    smooth = column("bilinear").at_image_size(0, batch())
    assert smooth.shape == (2, 1, 4, 4)
    assert smooth[0, 0, 0].tolist() == [0, 0.25, 0.75, 1]  # of 0 and 1, and no corner beyond them
    whole = torch.rand(2, 1, 4, 4)
    assert Column("m", "l", [whole]).at_image_size(0, batch()) is whole


def test_the_map_of_a_class_of_one_image():
    """As it is, since pictures are smoothed anyway, but in the image's size where nothing is to be smoothed."""
    assert column("bilinear").of(1, 2, batch()).tolist() == [[[14, 15], [16, 17]]]
    assert column("nearest").of(0, 2, batch())[0, 0].tolist() == [0, 0, 1, 1]


def test_copies_share_nothing_but_the_model():
    own, maps = batch(), column("bilinear")
    copied, copied_maps = own.copied(), maps.copied()
    for t in (copied.x, copied.scores, copied.targets, copied.samples[0].x, copied.samples[0].pairs.masks):
        t.logical_not_()
    for m in copied_maps.maps:
        m.fill_(-1)
    assert copied.model is own.model
    assert own.x.count_nonzero() == own.scores.count_nonzero() == own.samples[0].x.count_nonzero() == 0
    assert own.samples[0].pairs.masks.all()
    assert own.targets.tolist() == [[2, 0], [1, 2]]
    assert all((m >= 0).all() for m in maps.maps)
