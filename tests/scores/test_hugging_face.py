"""Networks of Hugging Face's transformers, timm and open_clip as they are, with random weights."""

import copy
import functools

import captum.attr
import pytest
import torch
from torch.nn.functional import cosine_similarity
from torchvision.ops import box_convert

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import class_sensitivity, parameter_randomization, pixel_removal
from captum_extract_aggregate.scores import (
    Detection,
    EmbeddingDirection,
    EmbeddingSimilarity,
    SegmentationRegion,
    SelectedOutput,
)

transformers = pytest.importorskip("transformers")
if not transformers.is_torch_available():
    pytest.skip("this transformers does not work with this PyTorch", allow_module_level=True)
transformers.logging.set_verbosity_error()

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
TOKENS = torch.tensor([[0, 5, 6, 1], [0, 7, 8, 1]])
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@functools.cache
def network(name):
    torch.manual_seed(0)
    t = transformers
    made = {
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**VISION, num_labels=5)),
        "dinov2": lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**VISION, num_labels=5)),
        "dinov2 without a head": lambda: t.Dinov2Model(t.Dinov2Config(**VISION)),
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 1, 1], layer_type="basic")
        ),
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=VISION)),
        "segformer": lambda: t.SegformerForSemanticSegmentation(
            t.SegformerConfig(
                hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
            )
        ),
        "detr": lambda: t.DetrForObjectDetection(
            t.DetrConfig(
                use_timm_backbone=False,
                use_pretrained_backbone=False,
                backbone=None,
                backbone_config=t.ResNetConfig(
                    embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
                ),
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                num_queries=8,
                num_labels=4,
            )
        ),
    }
    return made[name]().eval()


def embedding_of(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


@pytest.mark.parametrize("name", ["vit", "dinov2", "resnet"])
def test_a_classifier_as_it_is(name):
    model, by_hand = network(name), lambda x: network(name)(x).logits
    before = copy.deepcopy(model.state_dict())
    layers = cea.default_layers(model, X)
    if hasattr(model.config, "image_size"):
        assert list(cea.default_layers(model)) == list(layers)
    layer = list(layers)[-1]
    for kind in (cea.NormGrad, cea.GradCAM, cea.LinearApproximation):
        found = kind(model, layer).attribute(X, target=[1, 0])
        assert torch.equal(found, kind(by_hand, layers[layer]).attribute(X, target=[1, 0]))
        assert found.any()
    meta = cea.MetaSaliency(captum.attr.InputXGradient(model)).attribute(X, target=1)
    assert torch.equal(meta, cea.MetaSaliency(captum.attr.InputXGradient(by_hand), model=model).attribute(X, target=1))
    assert torch.equal(cea.FullGrad(model).attribute(X, 1), cea.FullGrad(SelectedOutput(model)).attribute(X, 1))
    method = cea.LinearApproximation(model, layer)
    maps = method.attribute(X, target=1)
    removal = pixel_removal(model, X, maps, step=128)
    assert torch.equal(removal.e, pixel_removal(by_hand, X, maps, step=128).e)
    assert torch.equal(class_sensitivity(method, X, model), class_sensitivity(method, X, by_hand))
    head = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)][-1]
    assert parameter_randomization(method, model, X, target=1, layers=[head]).stages == (head,)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_other_sizes_than_the_models_own():
    wide = torch.randn(1, 3, 32, 48)
    model = functools.partial(network("vit"), interpolate_pos_encoding=True)
    layer = next(iter(cea.default_layers(network("vit"))))
    found = cea.NormGrad(model, layer).attribute(wide, target=1)
    assert found.shape == (1, 1, 4, 6)
    assert torch.equal(found, cea.NormGrad(SelectedOutput(model), layer).attribute(wide, target=1))
    assert pixel_removal(model, wide, found, step=256).e.shape == (1,)


def test_several_tensors_are_an_error_with_the_cure():
    model = network("dinov2 without a head")
    layer = next(iter(cea.default_layers(model)))
    with pytest.raises(
        TypeError, match=r"last_hidden_state \(2, 17, 32\), pooler_output .*SelectedOutput\(model, outp"
    ):
        cea.NormGrad(model, layer).attribute(X, target=1)
    found = cea.NormGrad(SelectedOutput(model, output="pooler_output"), layer).attribute(X, target=1)
    direction = torch.eye(32)[1]
    assert torch.equal(found, cea.NormGrad(EmbeddingDirection(model, direction), layer).attribute(X))


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_similarity_to_a_text_and_an_image(name):
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    text = model.get_text_features(TOKENS)
    score = EmbeddingSimilarity(model.get_image_features, text)
    layers = cea.default_layers(score)
    assert all(layer.startswith("vision_model.") for layer in layers)
    layer = next(iter(layers))

    def by_hand(x):
        return cosine_similarity(embedding_of(model.get_image_features(x)), embedding_of(text)[1:])

    found = cea.LinearApproximation(score, layer).attribute(X, target=1)
    torch.testing.assert_close(
        found, cea.LinearApproximation(by_hand, layers[layer]).attribute(X), rtol=1e-4, atol=1e-7
    )
    whole = model(input_ids=TOKENS, pixel_values=X).logits_per_image
    scale = model.logit_scale.exp().item()
    bias = model.logit_bias if name == "siglip" else 0
    torch.testing.assert_close(
        EmbeddingSimilarity(model.get_image_features, text, scale=scale)(X) + bias, whole, rtol=1e-4, atol=1e-5
    )
    other = embedding_of(model.get_image_features(X[1:]))[0]
    of_image = EmbeddingSimilarity(model.get_image_features, other)
    torch.testing.assert_close(of_image(X)[1], torch.tensor(1.0))
    assert cea.FullGrad(of_image).attribute(X).shape == (2, 1, 32, 32)
    assert cea.MetaSaliency(cea.NormGrad(of_image, layer)).attribute(X).shape == (2, 1, 4, 4)
    randomized = parameter_randomization(cea.NormGrad(score, layer), score, X, target=1, layers=[layer])
    assert randomized.stages == (layer,)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["clip", "open_clip"])
def test_the_default_layers_know_the_size_of_a_pictures_tower(name):
    if name == "clip":
        config = transformers.CLIPConfig(
            text_config=TEXT, vision_config={**VISION, "image_size": 40}, projection_dim=16
        )
        encode = transformers.CLIPModel(config).eval().get_image_features
    else:
        model = pytest.importorskip("open_clip").model
        vision = {"image_size": 40, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
        encode = model.CLIP(16, vision, {"vocab_size": 50, "width": 32, "heads": 2, "layers": 2}).eval().encode_image
    assert len(cea.default_layers(EmbeddingSimilarity(encode, torch.ones(16)))) > 1


def last_blocks(model, embedding):
    """The default layers of a score of an embedding, and all the blocks that there are."""
    layers = list(cea.default_layers(EmbeddingDirection(embedding, torch.randn(embedding(X)[0].numel()))))
    parent = layers[0].rpartition(".")[0]
    return layers, [f"{parent}.{name}" for name, _ in model.get_submodule(parent).named_children()]


@pytest.mark.parametrize("name", ["open_clip", "timm"])
def test_the_default_layers_end_where_the_class_token_alone_goes_on(name):
    """The last layer with weights is a normalisation that sees all tokens."""
    if name == "timm":
        create = pytest.importorskip("timm").create_model
        token, mean = (
            create("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=3, global_pool=pool, fc_norm=False).eval()
            for pool in ("token", "avg")
        )
        of_token, of_mean = (token, token), (mean, mean)
    else:
        build = pytest.importorskip("open_clip").model.CLIP
        vision = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
        text = {"vocab_size": 50, "width": 32, "heads": 2, "layers": 2}
        token, mean = (build(16, vision | {"pool_type": pool}, text).eval() for pool in ("tok", "avg"))
        of_token, of_mean = (token, token.encode_image), (mean, mean.encode_image)
    layers, blocks = last_blocks(*of_token)
    assert layers == blocks[:-1]
    layers, blocks = last_blocks(*of_mean)
    assert layers == blocks


def test_a_pixel_of_segformer():
    model, x = network("segformer"), torch.randn(1, 3, 64, 96)
    score = SegmentationRegion(model, pixel=(10, 20))
    assert list(cea.default_layers(score, x)) == list(cea.default_layers(model, x))

    def by_hand(x):
        full = torch.nn.functional.interpolate(model(x).logits, (64, 96), mode="bilinear")
        return full[..., 10, 20]

    layer = list(cea.default_layers(model, x))[1]
    found = cea.GradCAM(score, layer).attribute(x, target=1)
    assert torch.equal(found, cea.GradCAM(by_hand, model.get_submodule(layer)).attribute(x, target=1))


def test_a_detection_of_detr_in_padded_pictures():
    model, x = network("detr"), torch.rand(2, 3, 64, 96)
    mask = torch.ones(2, 64, 96, dtype=torch.long)
    mask[1, :, 64:] = 0
    output, query = model(x, mask), 2
    labels = output.logits[:, query, :4].argmax(1)
    sizes = torch.tensor([[96.0, 64, 96, 64], [64, 64, 64, 64]])
    boxes = box_convert(output.pred_boxes[:, query], "cxcywh", "xyxy").detach() * sizes
    said = output.logits[torch.arange(2), query, labels]
    torch.testing.assert_close(Detection(model)(x, mask, boxes, labels), said)
    layer = next(n for n, _ in model.named_modules() if n.endswith("stages.1"))
    found = cea.GradCAM(Detection(model), layer).attribute(x, additional_forward_args=(mask, boxes, labels))

    def by_hand(x, mask):
        return model(x, mask).logits[torch.arange(len(x)), query, labels]

    expected = cea.GradCAM(by_hand, model.get_submodule(layer)).attribute(x, additional_forward_args=mask)
    torch.testing.assert_close(found, expected)
    one = cea.GradCAM(model, layer).attribute(x[:1], target=(query, int(labels[0])))
    torch.testing.assert_close(
        one, cea.GradCAM(Detection(model, box=boxes[0], label=int(labels[0])), layer).attribute(x[:1])
    )


def test_timm():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2).eval()
    direction = torch.randn(model.num_features)
    features = EmbeddingDirection(without_head(model), direction)
    found = cea.NormGrad(features, "blocks.0").attribute(X)
    by_hand = cea.NormGrad(lambda x: model.forward_head(model.forward_features(x), True) @ direction, model.blocks[0])
    torch.testing.assert_close(found, by_hand.attribute(X))


def without_head(model):
    """The features before the classifier, as a model: timm's way is one without a head."""
    bare = copy.deepcopy(model)
    bare.reset_classifier(0)
    return bare.eval()


def test_open_clip():
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(16, vision, text).eval()
    said = model.encode_text(torch.tensor([[1, 5, 6, 49, 0, 0, 0, 0]]))[0]
    score = EmbeddingSimilarity(model.encode_image, said)
    layer = next(iter(cea.default_layers(score, X)))
    by_hand = cea.NormGrad(lambda x: cosine_similarity(model.encode_image(x), said[None]), model.get_submodule(layer))
    torch.testing.assert_close(cea.NormGrad(score, layer).attribute(X), by_hand.attribute(X))
