"""The command line as a stranger meets it."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import METHODS
from captum_extract_aggregate.cli import app
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
    on_any_layer = [name for name in METHODS if not METHODS[name].needs_layers]
    result = run("--methods", ",".join(on_any_layer), "--layers", "layer2,layer4")
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


MINE = (
    "from torch import nn\n"
    "def build(classes=2):\n"
    "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)\n"
    "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)\n"
    "def six():\n"
    "    return build(6)\n"
)


def test_a_model_of_one_s_own(run, picture, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    result = run(picture, "--model", "mine.py:build", "--layers", "0,1", "--size", 64, "--mean", 0.5, "--std", "0.5")
    assert result.exit_code == 0, result.output


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
        (["picture.png", "--model", "broken_builder.py:leave"], "which failed: SystemExit"),
        (["picture.png", "--model", "leaving.py:build"], "cannot be imported: SystemExit"),
        (["--class-names", "latin.txt"], "class-names is 'latin.txt', which is no text in UTF-8"),
        (["--class-names", "three.txt"], "which has 3 names, but the model gives 10 scores"),
        (["picture.png", "--model", "mine.py:build", "--size", "16", "--class-names", "three.txt"], "has 3 names, but"),
        (["pipe.png"], "'pipe.png' cannot be read: it is a folder or a device"),
        (["folder.png"], "'folder.png' cannot be read: it is a folder or a device"),
        (["/proc"], "lies in /proc"),
        (["/proc/self/environ"], "lies in /proc"),
        (["/dev/zero"], "lies in /dev"),
        (["--output", "folder.png"], "output is 'folder.png', which is a folder"),
        (["--html", "folder.html"], "html is 'folder.html', which is a folder"),
        (["--seed", "9" * 30], "seed is 999"),
        (["--target", "9" * 30], "expected 0 to 9"),
        (["--target", "1_0"], "target is '1_0', which is unknown"),
        (["--methods", "captum:DeepLift"], "Captum's DeepLift does not explain this model: "),
        (["--methods", "normgrad,x:y"], "method 'x:y': aggregate is 'y'"),
        (["picture.png", "--model", "resnet18", "--weights", "random", "--class-names", "/proc/kmsg"], "no such file"),
        (["picture.png", "--model", "resnet18", "--weights", "n" * 5000], "no such file"),
        (
            ["picture.png", "--model", "mine.py:build", "--size", "16", "--weights", "words.pth"],
            "do not fit Sequential",
        ),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(run, picture, tmp_path, arguments, message):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "truncated.png").write_bytes(picture.read_bytes()[:2000])
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    (tmp_path / "three.txt").write_text("ant\nbee\nwasp\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(7)\n")
    (tmp_path / "mine.py").write_text(MINE)
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "folder.html"):
        (tmp_path / name).mkdir()
    torch.save({"0.weight": "words", "0.bias": "words"}, tmp_path / "words.pth")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    (tmp_path / "broken_builder.py").write_text(
        "def build():\n    return 3\ndef fail():\n    return 1 / 0\ndef leave():\n    raise SystemExit(7)\n"
    )
    torch.save({1: torch.zeros(1)}, tmp_path / "keys.pth")
    torch.save(torchvision.models.squeezenet1_1(num_classes=2).state_dict(), tmp_path / "other.pth")
    torch.save(torchvision.models.squeezenet1_1(num_classes=2), tmp_path / "pickled.pth")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert message in lines[0]
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


# --- Evaluations, and what is written -------------------------------------------------------------------------------

PLAN = """
layers = ["layer3"]
data = {n = 2}
methods = [{method = "gradient", label = "=cmd()"}]
measures = [{measure = "class_sensitivity", label = "@sum"}]
"""


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_an_evaluation_twice_and_cells_that_are_no_formulas(invoke, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    first = invoke("evaluate", "plan.toml")
    assert first.exit_code == 0, first.output
    again = invoke("evaluate", "plan.toml")
    assert "nothing to do: 2 results of 20" in again.output
    for file in ("summary.csv", "rows-sum.csv"):
        rows = list(csv.DictReader((tmp_path / "plan-results" / "report" / file).open()))
        assert {(row["method"], row["measure"]) for row in rows} == {("'=cmd()", "'@sum")}
        assert all(float(row.get("value", row.get("mean"))) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "deep.toml"], "plan 'deep.toml' is not TOML"),
        (["evaluate", "latin.toml"], "plan 'latin.toml' is not TOML"),
        (["evaluate", "/proc/kmsg"], "plan is '/proc/kmsg', and there is no such file"),
        (["evaluate", ""], "plan is '.', and there is no such file"),
        (["evaluate", "plan.toml", "--results", "file"], "results is 'file'; expected a folder"),
        (["evaluate", "plan.toml", "--results", "file/below"], "results is 'file/below'; expected a folder"),
        (["evaluate", "plan.toml", "--results", "/proc/results"], "results is '/proc/results'; expected a folder"),
        (["evaluate", "plan.toml", "--images", "one"], "images is 'one'"),
        (["report", "file"], "'file' holds no results"),
        (["report", "nowhere"], "'nowhere' holds no results"),
        (["reproduce", "g20-robustness", "--n", "-1"], "n is -1; expected 0"),
        (["reproduce", "g20-robustness", "--output", "file"], "output is 'file'; expected a folder"),
        (["reproduce", "g20-robustnes"], "did you mean 'g20-robustness'"),
        (["bias-report", "--n", "2", "--output", "file"], "output is 'file'; expected a folder"),
        (["bias-report", "--data", "imagenet", "--root", "/proc", "--model", "mine.py:build"], "/proc"),
        (
            ["bias-report", "--data", "imagenet", "--root", "list", "--model", "mine.py:build", "--head", "w.pth"],
            "head 'w",
        ),
    ],
)
def test_mistakes_of_other_commands(arguments, message, invoke, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "deep.toml").write_text("x = " + "[" * 3000 + "]" * 3000)
    (tmp_path / "latin.toml").write_bytes(b"title = '\xe9'")
    (tmp_path / "file").write_text("")
    (tmp_path / "list").write_text("a.png\t0\n")
    (tmp_path / "mine.py").write_text(MINE)
    torch.save({"weight": "words", "bias": torch.zeros(2)}, tmp_path / "w.pth")
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_whatever_else_is_raised_is_one_line(invoke, tmp_path, monkeypatch):
    from captum_extract_aggregate import evaluation

    (tmp_path / "plan.toml").write_text(PLAN)
    for error, told in (
        (RuntimeError("CUDA out of memory. Tried\nto allocate"), "memory ran out (RuntimeError: CUDA out of memory."),
        (MemoryError(), "memory ran out (MemoryError)"),
        (KeyError("x"), "error: KeyError: 'x'"),
        (AssertionError(), "error: AssertionError"),
        (RecursionError("too deep"), "error: RecursionError: too deep"),
    ):

        def failing(*arguments, error=error):
            raise error

        monkeypatch.setattr(evaluation, "run", failing)
        result = invoke("evaluate", "plan.toml")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert told in result.stderr
