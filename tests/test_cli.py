"""The command line as a stranger meets it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.methods import METHODS
from tests.conftest import REAL_DATA, needs_real_data


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        return CliRunner().invoke(app, ["explain", *map(str, arguments)])

    return invoke


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    values = np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def check_picture(path, least_colours=100):
    with Image.open(path) as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(2**24)) > least_colours


def test_without_arguments(run, tmp_path):
    result = run()
    assert result.exit_code == 0, result.output
    assert "class scores" in result.output
    assert "layers: layer1, layer2, layer3, layer4" in result.output
    assert "explanation.png" in result.output
    check_picture(tmp_path / "explanation.png")


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "captum_extract_aggregate", "explain", "--seed", "3", "--output", "out.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_picture(tmp_path / "out.png")
    version = subprocess.run([*command[:3], "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == cea.__version__


def test_choices(run, tmp_path):
    arguments = "--model scene-vgg --layers features.3,features.18 --methods normgrad,conv3x3:filter_norm --target 7"
    result = run(*arguments.split(), "--output", "a.svg")
    assert result.exit_code == 0, result.output
    assert "explained: class 7" in result.output
    assert "conv3x3:filter_norm" in (tmp_path / "a.svg").read_text()


def test_the_scene_vit(run, tmp_path):
    result = run(*"--model scene-vit --methods normgrad,gradcam --target 7".split())
    assert result.exit_code == 0, result.output
    check_picture(tmp_path / "explanation.png")


def test_every_method_by_name(run, tmp_path):
    result = run("--methods", ",".join(METHODS), "--layers", "layer2,layer4")
    assert result.exit_code == 0, result.output
    check_picture(tmp_path / "explanation.png")
    help_text = CliRunner().invoke(app, ["explain", "--help"], env={"COLUMNS": "900"}).output
    assert all(name in help_text for name in METHODS)


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
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)\n"
    )
    result = run(picture, "--model", "mine.py:build", "--layers", "0,1", "--size", 64, "--mean", 0.5, "--std", "0.5")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png"], "there is no file 'nothing.png'"),
        (["text.png"], "not a picture"),
        (["truncated.png"], "cannot be read"),
        (["--model", "resnet51"], "did you mean 'resnet"),
        (["picture.png", "--model", "resnet18"], "expected --weights DEFAULT"),
        (["--model", "resnet18", "--weights", "random"], "expected an IMAGE"),
        (["picture.png", "--model", "resnet18", "--weights", "gone.pth"], "no such file"),
        (["picture.png", "--model", "resnet18", "--weights", "text.png"], "no state dict"),
        (["picture.png", "--model", "resnet18", "--weights", "pickled.pth"], "read safely"),
        (["picture.png", "--model", "resnet18", "--weights", "other.pth"], "do not fit ResNet"),
        (["--layers", "layer5"], "did you mean 'layer"),
        (["--layers", "fc"], "no positions"),
        (["--methods", "gradkam"], "did you mean 'gradcam'"),
        (["--methods", ","], "expected at least one of"),
        (["--size", "64"], "for an IMAGE of your own"),
        (["--weights", "DEFAULT"], "brings its own"),
        (["picture.png", "--size", "1000000"], "8 to 4096"),
        (["picture.png", "--model", "vit_b_32", "--weights", "random", "--size", "64", "--layers", "x"], "see --size"),
        (["picture.png", "--model", "broken_builder.py:fail"], "which failed"),
        (["picture.png", "--model", "resnet18", "--weights", "keys.pth"], "with names"),
        (["--methods", "conv3x3:nrom"], "did you mean 'norm'"),
        (["--target", "10"], "expected 0 to 9"),
        (["--target", "seven"], "target is 'seven'"),
        (["--output", "no/such/folder.png"], "does not exist"),
        (["--output", "maps.txt"], "expected a .png"),
        (["picture.png", "--mean", "a,b"], "mean is 'a,b'"),
        (["picture.png", "--std", "0"], "expected positive"),
        (["picture.png", "--size", "2"], "8 to 4096"),
        (["--seed", "-1"], "seed is -1"),
        (["--class-names", "empty.txt"], "one class name per line"),
        (["picture.png", "--model", "gone.py:build"], "no file 'gone.py'"),
        (["picture.png", "--model", "broken.py:build"], "cannot be imported"),
        (["picture.png", "--model", "json:dump_"], "did you mean 'dump"),
        (["picture.png", "--model", "broken_builder.py:build"], "returned a int"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(run, picture, tmp_path, arguments, message):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "truncated.png").write_bytes(picture.read_bytes()[:2000])
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    (tmp_path / "broken_builder.py").write_text("def build():\n    return 3\ndef fail():\n    return 1 / 0\n")
    torch.save({1: torch.zeros(1)}, tmp_path / "keys.pth")
    torch.save(torchvision.models.squeezenet1_1(num_classes=2).state_dict(), tmp_path / "other.pth")
    torch.save(torchvision.models.squeezenet1_1(num_classes=2), tmp_path / "pickled.pth")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (tmp_path / "explanation.png").exists()


@needs_real_data
@pytest.mark.parametrize("model", ["squeezenet1_1", "mobilenet_v2"])
def test_real_network_on_a_real_photograph(run, tmp_path, model):
    weights = REAL_DATA / "models" / f"{model}-imagenet.pth"
    result = run(REAL_DATA / "photos" / "cat_dog.png", "--model", model, "--weights", weights)
    assert result.exit_code == 0, result.output
    assert "bull mastiff" in result.output.split("explained")[0]
    check_picture(tmp_path / "explanation.png")


@needs_real_data
def test_real_vision_transformer_on_a_real_photograph(run, tmp_path):
    (tmp_path / "vit.py").write_text(
        "from torchvision.models import VisionTransformer\n"
        "def tiny():\n    return VisionTransformer(224, 16, 12, 3, 192, 768)\n"
    )
    weights = REAL_DATA / "models" / "vit_tiny_patch16_224-imagenet.pth"
    photograph = REAL_DATA / "photos" / "cat_dog.png"
    result = run(photograph, "--model", "vit.py:tiny", "--weights", weights, "--mean", "0.5", "--std", "0.5")
    assert result.exit_code == 0, result.output
    assert "encoder.layers.encoder_layer_10" in result.output
    assert "explained: class 243" in result.output  # bull mastiff
    check_picture(tmp_path / "explanation.png")


def test_bias_report(tmp_path):
    folder = tmp_path / "out"
    result = CliRunner().invoke(app, ["bias-report", "--n", "6", "--robustness", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    assert "scene-vgg: 522 biases beside 294522 parameters" in result.stdout
    assert "scene-resnet: 634 biases" in result.stdout
    assert "input times 1000" in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == [
        *("bias-report-scene-resnet.csv", "bias-report-scene-vgg.csv"),
        *("robustness-scene-resnet.png", "robustness-scene-vgg.png"),
    ]
    header, *rows = (folder / "bias-report-scene-vgg.csv").read_text().splitlines()
    assert header == "image,top1,top1_without,top5,top5_without,same_decision,correlation,slope,intercept"
    assert [row.split(",")[0] for row in rows] == list("012345")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--n", "0"], "n is 0; expected 1 or more"),
        (["--data", "scense"], "did you mean 'scenes'"),
        (["--data", "imagenet"], "needs --root and --model"),
    ],
)
def test_bias_report_mistakes(arguments, said):
    result = CliRunner().invoke(app, ["bias-report", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_warning_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["explain", "--methods", "normgrad", "--layers", "layer3,layer4"])
    assert done.exit_code == 0
    (line,) = [line for line in done.output.splitlines() if "warn" in line.lower()]
    assert line.startswith("warning: NormGrad at 'layer4' does not depend on the class")
