"""Methods and layers, listed for a reader and for a shell."""

import typer

from captum_extract_aggregate import default_layers
from captum_extract_aggregate.attr.by_name import METHODS
from captum_extract_aggregate.cli.lists import complete_layers, complete_methods, complete_model
from captum_extract_aggregate.data import load_scene_model


def test_every_method_has_a_line(run):
    lines = run("--list-methods").stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(METHODS)
    by_name = {line.split()[0]: line for line in lines}
    assert by_name["normgrad"].split(maxsplit=2)[1:] == ["NormGrad", "each layer, best before the last"]
    assert by_name["fullgrad"].endswith("one map of all layers")
    assert by_name["finercam"].endswith("each layer, of another method")
    assert not any("math" in line or "`" in line for line in lines)
    assert max(map(len, lines)) <= 120


def test_layers_of_a_model_with_a_star_at_the_usual_ones(run, tmp_path):
    lines = run("--list-layers", "--model", "scene-resnet").stdout.splitlines()
    model = load_scene_model("resnet")
    assert [line[2:].split()[0] for line in lines if line.startswith("*")] == list(default_layers(model))
    assert "  fc  (Linear)" in lines
    assert list(tmp_path.iterdir()) == []  # nothing is explained
    assert "layers of the model" in run("--list-layers").stdout  # of the scenes


def test_what_a_shell_completes():
    assert list(complete_methods("gradcam,norm")) == ["gradcam,normgrad", "gradcam,normgrad-combined"]
    assert list(complete_model("scene-v")) == ["scene-vgg", "scene-vit"]
    assert "resnet18" in complete_model("resnet1")

    class Context:
        params = {"model": "resnet18"}

    context: typer.Context = Context()  # type: ignore[assignment]
    assert list(complete_layers(context, "layer1,layer4.1.c")) == ["layer1,layer4.1.conv1", "layer1,layer4.1.conv2"]
    context.params = {"model": ""}
    assert "layer3" in complete_layers(context, "lay")
    context.params = {"model": "nothing"}
    assert list(complete_layers(context, "")) == []


def test_a_shell_is_asked_to_complete_at_the_command_line(invoke):
    assert "--install-completion" in invoke("--help").stdout
