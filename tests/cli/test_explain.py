"""`explain` as a stranger meets it: without arguments, with choices, and on real networks."""

import subprocess
import sys

import pytest

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import METHODS
from tests.cli.files import check_picture
from tests.conftest import REAL_DATA, needs_real_data


def test_without_arguments(run, tmp_path):
    result = run()
    assert result.exit_code == 0, result.output
    assert "class scores" in result.output
    assert "layers: layer1, layer2, layer3, layer4" in result.output
    assert "explanation.png" in result.output
    check_picture(tmp_path / "explanation.png")


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "captum_extract_aggregate", "explain", "--seed", "3", "--output", "out.png"]
    command += ["--methods", "normgrad", "--layers", "layer3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_picture(tmp_path / "out.png")


def test_version(invoke):
    assert invoke("--version").output.strip() == cea.__version__


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png"], "there is no file 'nothing.png'"),
        (["text.png"], "not a picture"),
        (["truncated.png"], "cannot be read"),
        (["pipe.png"], "'pipe.png' cannot be read: it is a folder or a device"),
        (["folder.png"], "'folder.png' cannot be read: it is a folder or a device"),
        (["/proc"], "lies in /proc"),
        (["/proc/self/environ"], "lies in /proc"),
        (["/dev/zero"], "lies in /dev"),
    ],
)
def test_what_is_no_picture(arguments, message, refused):
    assert message in refused("explain", *arguments)


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
