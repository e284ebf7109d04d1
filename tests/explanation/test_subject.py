"""The model that options name, its classes, and pictures as it takes them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.explanation.subject import (
    check_names,
    class_name,
    find_subject,
    preprocess,
    scores_of,
    to_picture,
)
from tests.cli.files import MINE


def test_torchvision_model_with_a_state_dict(run, picture, tmp_path):
    net = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "weights.pth")
    (tmp_path / "names.txt").write_text("ant\nbee\nwasp\n")
    result = run(
        picture, "--model", "squeezenet1_1", "--weights", "weights.pth", "--class-names", "names.txt", "--target", "Bee"
    )
    assert result.exit_code == 0, result.output
    assert "explained: class bee (1)" in result.output


def test_a_model_of_one_s_own(run, picture, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    result = run(picture, "--model", "mine.py:build", "--layers", "0,1", "--size", 64, "--mean", 0.5, "--std", "0.5")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet51"], "did you mean 'resnet"),
        (["picture.png", "--model", "resnet18"], "expected --weights DEFAULT"),
        (["--model", "resnet18", "--weights", "random"], "expected an IMAGE"),
        (["picture.png", "--model", "resnet18", "--weights", "gone.pth"], "no such file"),
        (["picture.png", "--model", "resnet18", "--weights", "text.png"], "no state dict"),
        (["picture.png", "--model", "resnet18", "--weights", "pickled.pth"], "read safely"),
        (["picture.png", "--model", "resnet18", "--weights", "other.pth"], "do not fit ResNet"),
        (["--weights", "DEFAULT"], "brings its own"),
        (["picture.png", "--model", "scene-resnet", "--size", "1000000"], "8 to 4096"),
        (
            ["picture.png", "--model", "vit_b_32", "--weights", "random", "--size", "64", "--layers", "x"],
            "line --size",
        ),
        (["picture.png", "--model", "broken_builder.py:fail"], "which failed"),
        (["picture.png", "--model", "resnet18", "--weights", "keys.pth"], "with names"),
        (["picture.png", "--model", "scene-resnet", "--mean", "a,b"], "mean is 'a,b'"),
        (["picture.png", "--model", "scene-resnet", "--std", "0"], "expected positive"),
        (["picture.png", "--model", "scene-resnet", "--size", "2"], "8 to 4096"),
        (["--class-names", "empty.txt"], "one class name per line"),
        (["picture.png", "--model", "gone.py:build"], "no file 'gone.py'"),
        (["picture.png", "--model", "broken.py:build"], "cannot be imported"),
        (["picture.png", "--model", "json:dump_"], "did you mean 'dump"),
        (["picture.png", "--model", "broken_builder.py:build"], "returned a int"),
        (["picture.png", "--model", "broken_builder.py:leave"], "which failed: SystemExit"),
        (["picture.png", "--model", "leaving.py:build"], "cannot be imported: SystemExit"),
        (["--class-names", "latin.txt"], "class-names is 'latin.txt', which is no text in UTF-8"),
        (["--class-names", "three.txt"], "which has 3 names, but the model gives 10 scores"),
        (["picture.png", "--model", "mine.py:build", "--size", "16", "--class-names", "three.txt"], "has 3 names, but"),
        (["picture.png", "--model", "resnet18", "--weights", "random", "--class-names", "/proc/kmsg"], "no such file"),
        (["picture.png", "--model", "resnet18", "--weights", "n" * 5000], "no such file"),
        (
            ["picture.png", "--model", "mine.py:build", "--size", "16", "--weights", "words.pth"],
            "do not fit Sequential",
        ),
    ],
)
def test_what_is_no_model_or_does_not_fit_it(arguments, message, refused):
    assert message in refused("explain", *arguments)


def subject(size=2, resize=4, mean=(0.0,), std=(1.0,)):
    return NamedModel(nn.Identity(), size=size, resize=resize, mean=mean, std=std)


def test_a_picture_becomes_the_square_in_its_middle():
    """The short side of 8 stands for `resize`, so the square is as wide as `size`: no pixel is mixed with another."""
    values = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    expected = torch.from_numpy(values[2:6, 4:8]).permute(2, 0, 1)[None] / 255
    assert torch.equal(preprocess(Image.fromarray(values), subject(size=4, resize=8)), expected)
    smaller = preprocess(Image.new("RGB", (12, 8), (51, 51, 51)), subject(size=2, resize=4))
    assert torch.equal(smaller, torch.full((1, 3, 2, 2), 51 / 255))


def test_pixels_are_normalised_by_channel():
    own = subject(mean=(0.2, 0.3, 0.4), std=(0.5, 0.1, 0.2))
    x = preprocess(Image.new("RGB", (6, 6), (51, 102, 204)), own)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([0.0, 1.0, 2.0]))


def test_an_input_becomes_a_picture_again():
    own = subject(mean=(0.2, 0.3, 0.4), std=(0.5, 0.1, 0.2))
    x = preprocess(Image.new("RGB", (6, 6), (51, 102, 204)), own)[0]
    torch.testing.assert_close(to_picture(x, own)[:, 0, 0], torch.tensor([0.2, 0.4, 0.8]))
    assert to_picture(torch.full((3, 1, 1), 99.0), own).max() == 1
    assert to_picture(torch.full((3, 1, 1), -99.0), own).min() == 0


def test_what_options_say_of_the_input(tmp_path):
    found = find_subject("scene-resnet", "", None, size=48, mean="0.1, 0.2, 0.3", std="2")
    usual = find_subject("scene-resnet", "", None)
    assert (found.size, found.mean, found.std) == (48, (0.1, 0.2, 0.3), (2.0,))
    assert found.resize * usual.size == 48 * usual.resize
    (tmp_path / "names.txt").write_text("\ufeffa\n\n b \n")
    assert find_subject("scene-resnet", "", tmp_path / "names.txt").classes == ["a", "b"]


def test_what_a_class_is_called():
    assert [class_name(["ant", "", "2"], i) for i in range(4)] == ["ant (0)", "1", "2", "3"]


def test_scores_are_images_by_classes():
    x = torch.ones(1, 3, 2, 2)
    assert torch.equal(scores_of(nn.Flatten(), x), torch.ones(1, 12))
    for model, told in (
        (nn.Identity(), r"gives a tensor \(1, 3, 2, 2\); expected a tensor, batch x classes"),
        (nn.LSTM(2, 2), "does not run on a picture of shape"),
    ):
        with pytest.raises(ValueError, match=told):
            scores_of(model, x)
    with pytest.raises(TypeError, match=r"returned a list with 0 .* expected one that holds the scores"):
        scores_of(lambda x: [x], x)  # in which nothing says what is what
    with pytest.raises(ValueError, match=r"'names.txt', which has 2 names, but the model gives 3 scores"):
        check_names(Path("names.txt"), ["a", "b"], 3)
    check_names(None, [], 3)
