"""A part of a segmentation."""

import pytest
import torch
from torchvision.models import segmentation

import captum_extract_aggregate as cea
from captum_extract_aggregate.scores import SegmentationRegion
from tests.scores.cases import MASK, NET, X, says


def test_a_mask_for_each_example():
    masks = torch.stack([MASK, MASK.roll(5, 0), MASK.roll(9, 1)]) > 0
    found = cea.NormGrad(SegmentationRegion(NET.dense), "box").attribute(X, 3, masks)
    alone = [cea.NormGrad(SegmentationRegion(NET.dense, mask=m), "box").attribute(x[None], 3) for x, m in zip(X, masks)]
    torch.testing.assert_close(found, torch.cat(alone))


def test_torchvisions_segmentation():
    torch.manual_seed(0)
    build = segmentation.lraspp_mobilenet_v3_large
    model = build(weights=None, weights_backbone=None, num_classes=4).eval()
    x = torch.rand(1, 3, 64, 96)
    target = (2, 10, 20)
    found = cea.GradCAM(model, "backbone.6").attribute(x, target=target)
    by_hand = cea.GradCAM(lambda x: model(x)["out"], model.backbone["6"]).attribute(x, target=target)
    assert torch.equal(found, by_hand)
    of_pixel = cea.GradCAM(SegmentationRegion(model, pixel=(10, 20)), "backbone.6").attribute(x, target=2)
    torch.testing.assert_close(of_pixel, found)
    assert len(cea.default_layers(model, x)) > 2


def test_volumes():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 3, 1))
    x, mask = torch.randn(2, 1, 4, 5, 6), torch.zeros(4, 5, 6, dtype=torch.bool)
    mask[1, 2:4, 3] = True
    region = SegmentationRegion(model, mask=mask)
    torch.testing.assert_close(region(x), model(x)[:, :, mask].mean(2))
    torch.testing.assert_close(SegmentationRegion(model, pixel=(1, 2, 3))(x), model(x)[..., 1, 2, 3])
    assert cea.LinearApproximation(region, "1").attribute(x, target=2).shape == (2, 1, 4, 5, 6)
    says(lambda: SegmentationRegion(model, pixel=(1, 2))(x), "pixel is (1, 2); expected one of an input of 4 x 5 x 6")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: SegmentationRegion(NET.dense, pixel=(1, 2), mask=MASK), "both given"),
        (lambda: SegmentationRegion(NET.dense, pixel=(24, 2))(X), "pixel is (24, 2); expected one of an input of 24"),
        (lambda: SegmentationRegion(NET.dense, pixel=5), "pixel is 5; expected (row, column)"),
        (lambda: SegmentationRegion(NET.dense, pixel=(-1, 2)), "pixel is (-1, 2); expected (row, column)"),
        (lambda: SegmentationRegion(NET.dense, mask=MASK * 0)(X), "mask is empty"),
        (lambda: SegmentationRegion(NET.dense, mask=MASK[:9])(X), "mask is (1, 9, 24)"),
        (lambda: SegmentationRegion(NET.dense)(X), "expected those of the model, and 1 of its own"),
        (lambda: SegmentationRegion(NET, mask=MASK)(X), "of a segmentation"),
    ],
)
def test_mistakes(wrong, told):
    says(wrong, told)
