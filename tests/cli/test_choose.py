"""`choose`: a table, a recommendation and a picture."""

import numpy as np
import pytest
from PIL import Image

import captum_extract_aggregate as cea


def test_a_folder_of_pictures(invoke, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, (image, _) in enumerate(cea.DigitScenes(n=4)[j] for j in range(4)):
        pixels = (cea.DigitScenes.to_rgb(image).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    done = invoke("choose", "pictures", "--model", "scene-resnet", "--methods", "gradcam", "--layers", "layer3")
    assert done.exit_code == 0, done.output
    assert "Take none of these maps: no answer is certain." in done.output  # of four pictures nothing can be told
    for kind in ("txt", "csv", "png"):
        assert f"written: choice/choice.{kind}" in done.output
        assert (tmp_path / "choice" / f"choice.{kind}").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "--model", "scene-resnet"], "images is 'none', and there is no such folder"),
        ([".", "--model", "scene-resnet", "--n", "1"], "n is 1; expected an integer of at least 2"),
    ],
)
def test_wrong_values(arguments, message, refused):
    assert message in refused("choose", *arguments)
