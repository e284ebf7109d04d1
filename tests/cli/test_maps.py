"""What the grid of maps is made of: methods, layers, a class, and where it goes."""

import json
import re
from pathlib import Path

import pytest
import torch

from captum_extract_aggregate.cli import maps
from tests.cli.files import MINE


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("cardigan", "explained: class cardigan (2)"),
        ("Cardigan", "explained: class Cardigan (0)"),
        ("boxer", "explained: class Boxer (3)"),
        (" Boxer ", "explained: class Boxer (3)"),
        (
            "CARDIGAN",
            "target is 'CARDIGAN', which is the name of 2 classes; expected an index: 0 ('Cardigan'), 2 ('card",
        ),
        ("crane", "target is 'crane', which is the name of 2 classes; expected an index: 1 ('crane'), 4 ('crane')"),
        ("4", "explained: class crane (4)"),
        ("CAF\u00c9", "explained: class cafe\u0301 (5)"),  # one letter, or a letter and its accent
        ("BOXES", "target is 'BOXES', which is unknown; did you mean 'Boxer'?"),
    ],
)
def test_classes_by_name(target, told, run, picture, tmp_path):
    """Spelled exactly so first, else without regard to case; what is several classes' name is none of them."""
    (tmp_path / "mine.py").write_text(MINE)
    names = ("Cardigan", "crane", "cardigan", "Boxer", "crane", "cafe\u0301")
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8-sig")
    model = ("--model", "mine.py:six", "--size", "16", "--layers", "1", "--methods", "gradient")
    result = run(picture, *model, "--class-names", "names.txt", "--target", target)
    assert told in result.output
    assert result.exit_code == (0 if told.startswith("explained") else 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "layer5"], "did you mean 'layer"),
        (["--layers", "fc"], "no positions"),
        (["--methods", "gradkam"], "did you mean 'gradcam'"),
        (["--methods", ","], "expected at least one of"),
        (["--size", "64"], "for an IMAGE of your own"),
        (["--methods", "conv3x3:nrom"], "did you mean 'norm'"),
        (["--target", "10"], "expected 0 to 9"),
        (["--target", "seven"], "target is 'seven'"),
        (["--output", "no/such/folder.png"], "does not exist"),
        (["--output", "maps.txt"], "expected a .png"),
        (["--seed", "-1"], "seed is -1"),
        (["--output", "folder.png"], "output is 'folder.png', which is a folder"),
        (["--html", "folder.html"], "html is 'folder.html', which is a folder"),
        (["--seed", "9" * 30], "seed is 999"),
        (["--target", "9" * 30], "expected 0 to 9"),
        (["--target", "1_0"], "target is '1_0', which is unknown"),
        (["--methods", "captum:DeepLift"], "Captum's DeepLift does not explain this model: "),
        (["--methods", "normgrad,x:y"], "method 'x:y': aggregate is 'y'"),
    ],
)
def test_wrong_methods_layers_classes_and_files(arguments, message, refused):
    assert message in refused("explain", *arguments)


def test_what_is_told_and_the_page(picture, tmp_path, monkeypatch):
    """The highest scores, methods and layers in the order that was asked for, and the highest classes in the page."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    torch.manual_seed(0)
    request = maps.MapsRequest(
        *(picture, "mine.py:six", "", "1,0", "gradient,normgrad", "4"), size=16, html=Path("page.html")
    )
    told = maps.run(request).splitlines()
    assert told[0] == "class scores (logits), highest first:"
    scores = [float(line.split()[0]) for line in told[1:6]]
    assert scores == sorted(scores, reverse=True)
    assert told[6].startswith("explained: class 4, score ")
    assert told[7:] == ["layers: 1, 0", "maps written to explanation.png", "page written to page.html"]
    best = [line.split()[1] for line in told[1:6]]
    page = re.search(r'id="data">(.*?)</script>', (tmp_path / "page.html").read_text(), re.DOTALL)[1]
    found = json.loads(page)
    assert [c["name"] for c in found["classes"]] == ["4", *(name for name in best if name != "4")]
    assert [(m["name"], m["order"]) for m in found["methods"]] == [("gradient", ["1", "0"]), ("normgrad", ["1", "0"])]


def test_methods_of_attention_take_layers_with_attention_where_none_are_named(run, picture, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torchvision\n"
        "def swin(): return torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=6)\n"
    )
    methods = ("--methods", "legrad,gradient-weighted-attention,bias,gradcam", "--html", "page.html")
    result = run(picture, "--model", "mine.py:swin", "--size", "32", *methods)
    assert result.exit_code == 0, result.output
    page = Path("page.html").read_text()
    assert all(layer in page for layer in ("features.1.0.attn", "features.3.1.attn", "features.0.0"))
    refused = run(picture, "--model", "mine.py:swin", "--size", "32", "--methods", "attention-rollout")
    assert "cannot be multiplied over layers" in refused.output
    several = run(picture, "--model", "mine.py:swin", "--size", "32", "--methods", "legrad", "--layers", "features.1")
    assert "expected a layer inside of it" in several.output


def test_a_photograph_without_a_model(refused, monkeypatch):
    monkeypatch.setattr(maps, "weights_here", dict)
    told = refused("explain", "picture.png")
    assert told.startswith("error: there is no model for 'picture.png'; expected --model: ")
    assert "--weights DEFAULT" in told
    assert "there is no file" in refused("explain", "nothing.png")  # which is said first


def test_a_network_whose_weights_are_on_this_machine(picture, monkeypatch):
    monkeypatch.setattr(maps, "weights_here", lambda: {"resnet18": "IMAGENET1K_V1", "vgg16": "IMAGENET1K_V1"})
    request, note = maps.with_model(maps.MapsRequest(picture))
    assert (request.model, request.weights) == ("resnet18", "IMAGENET1K_V1")
    assert note == "model: resnet18, whose weights are on this machine\n"
    assert maps.with_model(maps.MapsRequest())[0].model == "scene-resnet"


def test_several_pictures_and_folders_of_them(picture, run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.PNG", "a.png", "picture.png"):
        (folder / name).write_bytes(picture.read_bytes())
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("")
    options = ("--model", "mine.py:six", "--size", "16", "--layers", "1", "--methods", "gradcam")
    result = run(picture, folder, *options, "--html", "pages")
    assert result.exit_code == 0, result.output
    told = result.stdout.splitlines()
    assert told[0] == "5 pictures, explained by mine.py:six"
    assert [line.partition(":")[0].rpartition("/")[2] for line in told[1:-1]] == [
        *("picture.png", "a.png", "b.PNG", "broken.jpg", "picture.png")
    ]
    assert "left out: " in told[4]
    assert told[-1] == "1 of 5 pictures left out"
    written = ["a", "b", "picture", "picture-2"]
    assert sorted(path.name for path in (tmp_path / "explanations").iterdir()) == sorted(
        f"{name}.png" for name in written
    )
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == sorted(f"{name}.html" for name in written)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["picture.png", "picture.png", "--output", "a.png"], "output is 'a.png', but there are several pictures"),
        (["picture.png", "picture.png", "--html", "a.html"], "html is 'a.html', but there are several pictures"),
        (["picture.png", "picture.png", "--output", "file"], "output is 'file', which is a file"),
        (["picture.png", "/proc"], "lies in /proc"),
        (["text.png", "text.png"], "not a picture"),
    ],
)
def test_wrong_uses_of_several_pictures(arguments, message, refused, monkeypatch):
    monkeypatch.setattr(maps, "weights_here", dict)
    assert message in refused("explain", *arguments)
