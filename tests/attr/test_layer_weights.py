"""Weights for combining layers, from what their features tell about a data set."""

import json

import captum.attr as captum_attr
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import captum_extract_aggregate as cea

LAYERS = ["conv1", "relu2", "conv3"]


def batches(n=24, size=5):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 3, 12, 12, generator=generator), torch.arange(n) % 3
    x[:, 0] += y[:, None, None]
    return DataLoader(TensorDataset(x, y), size), x, y


def test_feature_spread(small_net):
    loader, x, _ = batches()
    weights = cea.feature_spread_weights(small_net, LAYERS, loader, show_progress=False)
    raw = []
    for name in LAYERS:
        kept = captum_attr.LayerActivation(small_net, small_net.get_submodule(name)).attribute(x).mean((2, 3)).double()
        raw.append((kept - kept.mean(0)).abs().mean(0).mean().item())
    assert list(weights.raw.values()) == pytest.approx(raw, rel=1e-5)
    assert list(weights.values()) == pytest.approx([r / sum(raw) for r in raw], rel=1e-5)
    assert weights.images == 24
    single = cea.feature_spread_weights(small_net, LAYERS, [row[None] for row in x], show_progress=False)
    assert list(single.values()) == pytest.approx(list(weights.values()), rel=1e-5)


def test_accuracy(small_net):
    loader, _, _ = batches(120, 16)
    weights = cea.accuracy_weights(small_net, LAYERS, loader, show_progress=False)
    assert weights == cea.accuracy_weights(small_net, LAYERS, loader, show_progress=False)
    assert all(0 <= accuracy <= 1 for accuracy in weights.raw.values())
    assert weights.raw["conv1"] > 0.8  # the first channel's mean tells the class
    assert sum(weights.values()) == pytest.approx(1)
    shuffled = [(x, y[torch.randperm(len(y))]) for x, y in loader]
    chance = cea.accuracy_weights(small_net, LAYERS, shuffled, show_progress=False)
    assert chance.raw["conv1"] < 0.7


def test_weights_print_save_load_and_combine(small_net, images, tmp_path):
    loader, _, _ = batches()
    weights = cea.feature_spread_weights(small_net, LAYERS, loader, show_progress=False)
    lines = str(weights).splitlines()
    assert len(lines) == 4
    assert "feature spread (24 images)" in lines[0]
    weights.save(tmp_path / "weights.json")
    assert json.loads((tmp_path / "weights.json").read_text())["what"] == "feature spread"
    loaded = cea.LayerWeights.load(tmp_path / "weights.json")
    assert loaded == weights
    assert str(loaded) == str(weights)
    combination = cea.LayerCombination(cea.NormGrad(small_net, LAYERS), weights=loaded)
    assert combination.weights == pytest.approx(tuple(weights.values()))
    assert combination.attribute(images, 1).shape == (3, 1, 12, 12)


@pytest.mark.parametrize(
    ("function", "loader", "match"),
    [
        (cea.feature_spread_weights, [], "at least two"),
        (cea.feature_spread_weights, [torch.zeros(4, 3, 12, 12)], "is 0"),
        (cea.feature_spread_weights, iter([torch.randn(4, 3, 12, 12)]), "gone through twice"),
        (cea.feature_spread_weights, ["a"], "batches of tensors"),
        (cea.accuracy_weights, [torch.randn(4, 3, 12, 12)], "no class index"),
        (cea.accuracy_weights, [(torch.randn(4, 3, 12, 12), torch.zeros(4).long())], "at least two classes"),
        (cea.accuracy_weights, [(torch.randn(4, 3, 12, 12), torch.zeros(4, 2))], "one index per image"),
        (cea.accuracy_weights, [(torch.randn(2, 3, 12, 12), ["cat", "dog"])], "expected class indices"),
        (cea.feature_spread_weights, [torch.full((4, 3, 12, 12), torch.nan)], "NaN or infinite"),
        (cea.feature_spread_weights, [()], "batches of tensors"),
    ],
)
def test_mistaken_data(small_net, function, loader, match):
    with pytest.raises((ValueError, TypeError), match=match):
        function(small_net, LAYERS, loader, show_progress=False)


@pytest.mark.parametrize(
    ("layers", "error"),
    [([], ValueError), ([None, "conv1"], ValueError), ("conv1", TypeError), (["conv9"], ValueError)],
)
def test_mistaken_layers(small_net, layers, error):
    loader, _, _ = batches()
    with pytest.raises(error, match="layer"):
        cea.feature_spread_weights(small_net, layers, loader, show_progress=False)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        cea.accuracy_weights(lambda x: small_net(x), LAYERS, loader, show_progress=False)


def test_a_class_with_one_image_may_be_missing_from_the_training_half(small_net):
    loader = [(torch.randn(5, 3, 12, 12), torch.tensor([0, 1, 0, 0, 0]))]
    outcomes = set()
    for seed in range(12):
        try:
            outcomes.add(type(cea.accuracy_weights(small_net, LAYERS, loader, seed=seed, show_progress=False)))
        except ValueError as error:
            outcomes.add("left to train on" in str(error))
    assert outcomes == {cea.LayerWeights, True}


def test_weights_leave_the_model_as_it_was(small_net):
    loader, _, _ = batches()
    before = {key: value.clone() for key, value in small_net.state_dict().items()}
    cea.accuracy_weights(small_net, LAYERS, loader, show_progress=False)
    assert all(torch.equal(before[key], value) for key, value in small_net.state_dict().items())
    assert all(p.requires_grad for p in small_net.parameters())
    assert all(not m._forward_hooks for m in small_net.modules())


@pytest.fixture
def divisions(monkeypatch):
    """The classes of the images trained on and held out, for each call of accuracy_weights."""
    import sklearn.model_selection

    found, plain = [], sklearn.model_selection.train_test_split

    def split(indices, stratify=None, **kwargs):
        train, test = plain(indices, stratify=stratify, **kwargs)
        found.append((train, test))
        return train, test

    monkeypatch.setattr(sklearn.model_selection, "train_test_split", split)
    return found


def labelled(labels):
    x = torch.randn(len(labels), 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return [(x + torch.tensor(labels).reshape(-1, 1, 1, 1), torch.tensor(labels))]


def test_each_class_is_divided_alike(small_net, divisions):
    """Of a class of two one image is held out, whatever the seed."""
    labels = [0] * 2 + [1] * 18
    for seed in range(6):
        cea.accuracy_weights(small_net, ["conv3"], labelled(labels), 0.5, seed, show_progress=False)
    assert [[labels[i] for i in part].count(0) for parts in divisions for part in parts] == [1] * 12


def test_a_class_of_one_image_cannot_be_divided_but_the_others_can(small_net, divisions):
    labels = [0] + [1] * 8 + [2] * 8
    for seed in range(6):
        weights = cea.accuracy_weights(small_net, ["conv1", "conv3"], labelled(labels), 0.5, seed, show_progress=False)
        assert sum(weights.values()) == pytest.approx(1)
    sides = [0 in [labels[i] for i in train] for train, _ in divisions]
    assert set(sides) == {False, True}  # by chance, on either side


RAW = {"what": "accuracy", "images": 3, "raw": {"conv1": 0.5, "conv3": 1}}
WRONG_FILES = {
    "not JSON": (b"conv1: 0.5", "it is no JSON"),
    "empty": (b"", "it is no JSON"),
    "not UTF-8": (b'{"what": "\xff\xfe"}', "it is no JSON"),
    "three thousand brackets": (b"[" * 3000 + b"]" * 3000, "no file that LayerWeights.save wrote"),
    "a list": (b"[1, 2]", "lacks 'raw'"),
    "null": (b"null", "lacks 'raw'"),
    "other keys": (b'{"conv1": 0.5}', "lacks 'raw'"),
    "a list of values": (json.dumps(RAW | {"raw": [1, 2]}).encode(), "lacks 'raw'"),
    "no number of images": (json.dumps(RAW | {"images": "many"}).encode(), "lacks 'raw', 'what' or 'images'"),
    "text for a value": (json.dumps(RAW | {"raw": {"conv1": "much"}}).encode(), "raw value of 'conv1' is 'much'"),
    "not a number": (json.dumps(RAW | {"raw": {"conv1": float("nan")}}).encode(), "raw value of 'conv1' is nan"),
    "infinite": (json.dumps(RAW | {"raw": {"conv1": float("inf")}}).encode(), "raw value of 'conv1' is inf"),
    "negative": (json.dumps(RAW | {"raw": {"conv1": -1, "conv3": 2}}).encode(), "raw value of 'conv1' is -1"),
    "true": (json.dumps(RAW | {"raw": {"conv1": True}}).encode(), "raw value of 'conv1' is True"),
    "no layers": (json.dumps(RAW | {"raw": {}}).encode(), "every layer's accuracy is 0"),
}


@pytest.mark.parametrize(("content", "why"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_layer_weights_from_a_wrong_file(tmp_path, content, why):
    (tmp_path / "weights.json").write_bytes(content)
    with pytest.raises(ValueError, match=why) as error:
        cea.LayerWeights.load(tmp_path / "weights.json")
    assert "weights.json" in str(error.value) or why.startswith("every")


def test_layer_weights_from_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(OSError, match=str(path)):
            cea.LayerWeights.load(path)
    (tmp_path / "right.json").write_text(json.dumps(RAW))
    assert cea.LayerWeights.load(tmp_path / "right.json")["conv3"] == pytest.approx(2 / 3)
