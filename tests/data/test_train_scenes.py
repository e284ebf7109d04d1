"""Training the scene networks: what they learn from, and that they learn."""

import torch

from captum_extract_aggregate.data import scene_models, train_scenes


def test_training_script_runs(tmp_path):
    images, classes = train_scenes.load_scenes(64, 1, "train")
    for name in ("vgg", "resnet", "vit"):
        model = scene_models.build_scene_model(name)
        before = [p.clone() for p in model.parameters()]
        train_scenes.train(model, images, classes, epochs=2, seed=0)
        assert not model.training
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
        path = scene_models.save_scene_weights(model, name, tmp_path)
        assert path.is_file()


def test_the_vit_learns_from_crops():
    crops, classes = train_scenes.load_crops(40, 1, "train")
    assert crops.shape[1:] == (3, 48, 48)
    assert len(crops) == len(classes) > 60
    assert classes.sum(1).min() >= 1  # the digit in the middle at least
    model = scene_models.build_scene_model("vit")
    before = [p.clone() for p in model.parameters()]
    train_scenes.train(model, crops, classes, epochs=1, seed=0)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
