"""Models from a local folder of Hugging Face's: their weights, classes, and pictures as they take them."""

import json

import pytest
import torch
from PIL import Image

from captum_extract_aggregate.cli.maps import MapsRequest
from captum_extract_aggregate.cli.maps import run as explain
from captum_extract_aggregate.data.models_by_name import load_subject
from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, ModelPlan, Plan, run, summarize
from captum_extract_aggregate.explanation.subject import preprocess, to_picture

transformers = pytest.importorskip("transformers")
if not transformers.is_torch_available():
    pytest.skip("this transformers does not work with this PyTorch", allow_module_level=True)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

NAMES = ["cat", "dog", "owl"]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}


def saved(folder, processor, **config):
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    made = transformers.ViTConfig(image_size=32, patch_size=8, **SMALL, **names, **config)
    model = transformers.ViTForImageClassification(made).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def picture(width=90, height=60):
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


PROCESSORS = {
    "squashed": lambda: transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
    "cropped": lambda: transformers.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    ),
    "cropped by a share": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8),
    "rescaled by another factor": lambda: transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3
    ),
    "not normalised": lambda: transformers.ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False),
}
SIDES = {"cropped": 40, "cropped by a share": 40}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_are_prepared_as_the_folder_says(name, tmp_path):
    processor = PROCESSORS[name]()
    model = saved(tmp_path, processor)
    subject = load_subject(str(tmp_path))
    x = preprocess(picture(), subject)
    assert torch.equal(x, processor(images=picture(), return_tensors="pt")["pixel_values"])
    assert torch.equal(subject.model(x).logits, model(x).logits)
    assert subject.classes == NAMES
    assert (subject.size, subject.resize) == (32, SIDES.get(name, 32))
    assert subject.is_square is (name not in SIDES)
    grey = Image.new("RGB", (50, 40), (200, 100, 20))  # mean, std, size and crop say the same as the processor
    ours = preprocess(grey, subject)
    subject.processor = None
    torch.testing.assert_close(preprocess(grey, subject), ours)
    shown = to_picture(ours[0], subject)
    torch.testing.assert_close(shown[:, 9, 9], torch.tensor([200, 100, 20]) / 255, rtol=1e-4, atol=1e-5)


def test_weights(tmp_path):
    model = saved(tmp_path, PROCESSORS["squashed"]())
    state = {name: torch.full_like(value, 0.25) for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "others.pth")
    others = load_subject(str(tmp_path), str(tmp_path / "others.pth")).model
    assert all(bool((p == 0.25).all()) for p in others.parameters())
    random = load_subject(str(tmp_path), "random").model
    assert not torch.equal(random.classifier.weight, model.classifier.weight)
    with pytest.raises(ValueError, match="expected none"):
        load_subject(str(tmp_path), "V1")
    with pytest.raises(ValueError, match="is for 3 classes"):
        load_subject(str(tmp_path), "", 7)


def test_a_folder_that_holds_no_classifier(tmp_path):
    saved(tmp_path, PROCESSORS["squashed"]())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchNetwork"]}))
    with pytest.raises(ValueError, match="names NoSuchNetwork as its architecture"):
        load_subject(str(tmp_path))
    bare = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL))
    bare.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(ValueError, match="whose weights lack 2 of the model's"):
        load_subject(str(tmp_path))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json cannot be read"):
        load_subject(str(tmp_path))


def test_a_plan_with_a_folder(tmp_path):
    saved(tmp_path / "model", PROCESSORS["squashed"]())
    for i in range(4):
        (tmp_path / "images" / NAMES[i % 3]).mkdir(parents=True, exist_ok=True)
        picture(60 + i, 50).save(tmp_path / "images" / NAMES[i % 3] / f"{i}.png")
    plan = Plan(
        data=DataPlan(kind="folder", root=str(tmp_path / "images")),
        model=ModelPlan(name=str(tmp_path / "model")),
        methods=(MethodPlan("normgrad"), MethodPlan("captum:Saliency")),
        measures=(MeasurePlan("class_sensitivity"),),
    )
    results = run(plan, tmp_path / "results", show_progress=False)
    found = summarize(results)
    assert {row.method for row in found} == {"normgrad", "captum:Saliency"}
    assert all(row.n == 4 for row in found)


def test_the_command_line_with_a_folder(tmp_path):
    model = saved(tmp_path, PROCESSORS["squashed"]())
    picture().save(tmp_path / "picture.png")
    methods = "normgrad,fullgrad,captum:Saliency"
    request = MapsRequest(
        tmp_path / "picture.png", str(tmp_path), target="owl", methods=methods, output=tmp_path / "maps.png"
    )
    told = explain(request)
    x = PROCESSORS["squashed"]()(images=picture(), return_tensors="pt")["pixel_values"]
    assert f"explained: class owl (2), score {model(x).logits[0, 2]:.2f}" in told
    assert (tmp_path / "maps.png").is_file()
