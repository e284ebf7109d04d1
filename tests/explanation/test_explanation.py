"""What one call found: shown, saved, asked for other classes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.visualization import overlaid


@pytest.fixture(scope="module")
def found():
    return cea.explain("scene-resnet", seed=5, methods="gradcam,linear-approximation")


def test_maps_of_any_class_are_those_of_that_class(found):
    for target in (3, "7"):
        layers = list(found.maps["linear-approximation"])
        expected = cea.LinearApproximation(found.model, layers).attribute(found.x, target=int(target))
        for layer, m in zip(layers, expected):
            torch.testing.assert_close(found.maps_of(target)["linear-approximation"][layer], m[0])
    assert found.maps_of(3) is found.maps_of("3")  # made once
    assert found.maps is found.maps_of(found.target)


def test_what_it_says(found):
    scores = found.model(found.x)[0]
    assert torch.equal(found.scores, scores.detach())
    assert found.target == int(scores.argmax())
    lines = found.summary().splitlines()
    assert lines[-2] == f"explained: class {found.target}, score {scores.max():.2f}"
    assert lines[-1] == "layers: layer1, layer2, layer3, layer4"
    assert repr(found).startswith(f"<Explanation of scene-resnet: class {found.target}, score ")


def test_pictures_and_pages(found, tmp_path):
    for name in ("a.png", "a.jpg", "a.webp", "a.svg", "a.pdf"):
        assert found.save(tmp_path / name).stat().st_size > 1000
    assert "linear-approximation" in found.save(str(tmp_path / "a.html")).read_text()
    with Image.open(io.BytesIO(found._repr_png_())) as picture:
        assert min(picture.size) > 200
    frame = found._repr_html_()
    assert frame.startswith("<iframe title=")
    assert "<script" not in frame  # all of the page is text of an attribute


def test_a_single_map_is_the_photograph_in_its_own_pixels(tmp_path):
    torch.manual_seed(0)
    photograph = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    big = cea.explain(net, photograph, 1, layers="0", methods="normgrad,linear-approximation")
    side = round(500 * 224 / 256)
    for options, method in (({}, "linear-approximation"), ({"method": "normgrad", "layer": "0"}, "normgrad")):
        with Image.open(big.save(tmp_path / "one.png", single=True, **options)) as picture:
            assert abs(picture.size[0] - side) <= 1
            assert np.array_equal(np.asarray(picture), overlaid(big.picture, big.maps[method]["0"]))
    assert max(big.figure().axes[0].images[0].get_array().shape) <= 640


@pytest.mark.parametrize(
    ("path", "options", "told"),
    [
        ("a.txt", {}, "path is 'a.txt'; expected a .png, .pdf, .svg, .jpg or .webp file, or .html"),
        ("no/folder/a.png", {}, "does not exist"),
        ("a.svg", {"single": True}, "expected a .png, .jpg or .webp file for a single map"),
        ("a.png", {"single": True, "method": "gradcan"}, "did you mean 'gradcam'"),
        ("a.png", {"single": True, "layer": "layer5"}, "layer is 'layer5'"),
    ],
)
def test_wrong_uses(found, path, options, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=told):
        found.save(path, **options)
    assert list(tmp_path.iterdir()) == []
