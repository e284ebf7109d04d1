"""What is known of an image."""

import torch

from captum_extract_aggregate.evaluation.images import Images, Sample, Source


def test_an_input_is_a_picture_again():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    images = Images(1, lambda i: None, lambda i: "", lambda i: Source(), False, (), (mean, std))
    picture = torch.rand(3, 5, 4)
    x = (picture - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(images.picture(x), picture)
    assert images.picture(10 * torch.ones(3, 5, 4)).max() == 1


def test_an_image_of_which_nothing_is_known_but_itself():
    sample = Sample(3, "name", torch.zeros(1, 2, 2))
    assert sample.label == -1
    assert sample.pairs is None
