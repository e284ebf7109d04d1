"""`leaderboard`: a table, and a page."""

import numpy as np
from PIL import Image

import captum_extract_aggregate as cea


def test_a_folder_of_pictures(invoke, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, (image, _) in enumerate(cea.DigitScenes(n=8)[j] for j in range(8)):
        pixels = (cea.DigitScenes.to_rgb(image).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    given = ["--model", "scene-resnet", "--methods", "gradcam", "--layers", "layer3", "--n", "2"]
    done = invoke("leaderboard", "pictures", *given)
    assert done.exit_code == 0, done.output
    assert "gradcam" in done.output
    assert "random map" in done.output
    for kind in ("html", "txt", "json"):
        assert f"written: leaderboard/leaderboard.{kind}" in done.output
        assert (tmp_path / "leaderboard" / f"leaderboard.{kind}").is_file()


def test_wrong_values(refused):
    assert "images is 'none', and there is no such folder" in refused("leaderboard", "none", "--model", "scene-resnet")
