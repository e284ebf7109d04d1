"""Pictures of any kind, as a model sees them."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.explanation.pictures import see

SUBJECT = NamedModel(nn.Identity(), 8, 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_the_same_picture_in_every_form(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS / 255,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
    ]
    first, *others = [see(form, SUBJECT, None) for form in forms]
    assert first.x.shape == (1, 3, 8, 8)
    for other in others:
        assert torch.equal(other.x, first.x)
        assert torch.equal(other.picture, first.picture)


def test_what_is_shown_is_what_the_model_sees_in_the_photograph_s_pixels():
    """The middle 48 x 48 of 60 x 80: 8 of 10 parts of the short side."""
    seen = see(PIXELS, SUBJECT, None)
    expected = torch.from_numpy(PIXELS[6:54, 16:64]).permute(2, 0, 1) / 255
    assert torch.equal(seen.picture, expected)
    small = Image.fromarray(PIXELS).resize((8, 8), Image.Resampling.BILINEAR, box=(16, 6, 64, 54))
    small = torch.from_numpy(np.array(small))
    assert torch.allclose(seen.x[0] * 0.25 + 0.5, small.permute(2, 0, 1) / 255, atol=0.01)


def test_numbers_of_more_bits_are_those_of_a_file(tmp_path):
    deep = (PIXELS[..., 0].astype(np.uint16) * 16) + 5  # 12 bits of 16
    Image.fromarray(deep).save(tmp_path / "deep.png")
    of_file = see(tmp_path / "deep.png", SUBJECT, None)
    assert torch.equal(see(deep, SUBJECT, None).picture, of_file.picture)
    assert of_file.picture.max() > 0
    for same in (PIXELS.astype(np.int64), PIXELS.astype(np.uint16), (PIXELS / 255.0).astype(np.float16)):
        assert torch.equal(see(same, SUBJECT, None).picture, see(PIXELS, SUBJECT, None).picture)
    mask = PIXELS[..., 0] > 100
    assert torch.equal(see(mask, SUBJECT, None).picture, see(mask * np.uint8(255), SUBJECT, None).picture)


def test_an_open_picture_is_turned_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    of_file = see(tmp_path / "turned.png", SUBJECT, None)
    with Image.open(tmp_path / "turned.png") as picture:
        assert torch.equal(see(picture, SUBJECT, None).x, of_file.x)
    assert not torch.equal(of_file.x, see(PIXELS, SUBJECT, None).x)


def test_grey_and_transparent_pictures_have_three_channels():
    for array in (PIXELS[..., 0], PIXELS[..., :1], np.dstack([PIXELS, PIXELS[..., 0]])):
        assert see(array, SUBJECT, None).x.shape == (1, 3, 8, 8)


def test_a_transform_of_one_s_own():
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    seen = see(PIXELS, SUBJECT, preset)
    assert torch.equal(seen.x[0], preset(Image.fromarray(PIXELS)))
    unnormalised = seen.x[0] * torch.tensor(preset.std)[:, None, None] + torch.tensor(preset.mean)[:, None, None]
    assert torch.allclose(seen.picture, unnormalised.clamp(0, 1))
    bare = see(PIXELS, SUBJECT, torchvision.transforms.ToTensor())
    assert bare.x.shape == (1, 3, 60, 80)
    assert (bare.picture.min(), bare.picture.max()) == (0, 1)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_model_s_own_input_is_taken_as_it_is(channels):
    x = torch.randn(channels, 6, 7)
    for given in (x, x[None]):
        seen = see(given, SUBJECT, None)
        assert torch.equal(seen.x[0], x)
        assert seen.picture.shape == (3, 6, 7)
        assert 0 <= seen.picture.min() <= seen.picture.max() <= 1


@pytest.mark.parametrize(
    ("image", "transform", "told"),
    [
        (3, None, "image is a int; expected a path, a PIL image"),
        (np.zeros((3, 8, 8), dtype=np.uint8), None, r"image is a ndarray \(3, 8, 8\); expected"),
        (PIXELS.astype(float), None, "image has values from 0 to 255; expected"),
        (np.full((4, 4, 3), np.nan), None, "image has values from nan"),
        (PIXELS[:0], None, r"image is an array \(0, 80, 3\) without pixels"),
        (PIXELS.astype(int) - 1, None, "image has values from -1 to 254; expected"),
        (PIXELS.astype(int) * 300, None, "image has values from 0 to 76500; expected"),
        (PIXELS.astype(complex), None, "image is an array of complex128; expected"),
        (torch.zeros(2, 3, 8, 8), None, r"image is a tensor \(2, 3, 8, 8\); expected"),
        (PIXELS, lambda p: 1 / 0, "preprocess does not take a PIL image: .*division"),
        (PIXELS, lambda p: "x", "preprocess returned a str; expected a tensor C x H x W"),
        ("no/such/picture.jpg", None, "there is no file 'no/such/picture.jpg'"),
    ],
)
def test_what_is_no_picture(image, transform, told):
    with pytest.raises((ValueError, TypeError), match=told):
        see(image, SUBJECT, transform)
