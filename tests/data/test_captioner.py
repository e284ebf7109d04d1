"""The embedded captioner of the scenes."""

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import captioner as captioning
from captum_extract_aggregate.data import load_scene_captioner, train_captioner


@pytest.fixture(scope="module")
def captioner():
    return load_scene_captioner()


@pytest.fixture(scope="module")
def held_out(captioner):
    return train_captioner.load_features(captioner.encoder, 200, 5, "test", show_progress=False)


def test_true_captions():
    scenes = cea.DigitScenes(30, seed=1)
    for _, target in scenes:
        words = captioning.caption_of(target["classes"]).split()
        digits = [captioning.DIGITS.index(word) for word in words if word in captioning.DIGITS]
        assert digits == sorted(set(target["labels"].tolist()))
        assert words.count("and") == min(1, len(digits) - 1)
        assert words.count(",") == max(0, len(digits) - 2)


def test_shipped_captioner(captioner, held_out):
    assert not captioner.training
    exact, words = train_captioner.accuracies(captioner, *held_out)
    print(f"captions right {exact:.4f}, words right {words:.4f}")
    assert exact > 0.75
    assert words > 0.92


def test_its_encoder_is_the_scene_resnet(captioner):
    x = cea.DigitScenes(1)[0][0][None]
    with torch.no_grad():
        assert torch.equal(captioner.encoder(x), cea.load_scene_model("resnet")(x))


def test_log_probabilities(captioner):
    images = torch.stack([image for image, _ in cea.DigitScenes(3)])
    captions = ["three and nine", "one", "zero , four and five"]
    words = captioner.word_log_probabilities(images, captions)
    assert words.shape == (3, 6)
    assert torch.equal(words != 0, torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1] * 6]).bool())
    torch.testing.assert_close(captioner.log_probability(images, captions), words.sum(1))
    for i in range(3):  # padding changes nothing
        torch.testing.assert_close(captioner.log_probability(images[i : i + 1], captions[i : i + 1])[0], words[i].sum())
    # A first word's probabilities sum to one.
    firsts = torch.stack([captioner.word_log_probabilities(images[:1], [w])[0, 0] for w in captioning.WORDS[1:-1]])
    assert 0.99 < float(firsts.detach().exp().sum()) <= 1.0001


def test_greedy_captions_are_the_likeliest_word_by_word(captioner):
    image = cea.DigitScenes(4)[3][0]
    said = captioner.caption(image).split()
    for i, word in enumerate(said):
        others = [" ".join([*said[:i], other]) for other in captioning.WORDS[1:-1]]
        found = captioner.word_log_probabilities(image.expand(len(others), -1, -1, -1), others)[:, i]
        assert captioning.WORDS[1:-1][int(found.argmax())] == word


def test_a_caption_and_its_words_can_be_explained(captioner):
    images = torch.stack([image for image, _ in cea.DigitScenes(2)])
    captions = ["three and nine", "one and two"]
    whole = cea.LinearApproximation(lambda x: captioner.log_probability(x, captions), captioner.encoder.layer3)
    words = cea.LinearApproximation(lambda x: captioner.word_log_probabilities(x, captions), captioner.encoder.layer3)
    total = words.attribute_per_target(images, [0, 1, 2, 3]).sum(1)
    torch.testing.assert_close(whole.attribute(images), total, rtol=1e-4, atol=1e-6)
    assert total.shape == (2, 1, 24, 24)
    assert total.abs().max() > 0


def test_a_contrast_is_a_difference(captioner):
    images = torch.stack([image for image, _ in cea.DigitScenes(2)])
    captions, others = ["three and nine", "one and two"], ["three", "one , two and six"]
    ratio = captioner.log_probability_ratio(images, captions, others)
    expected = captioner.log_probability(images, captions) - captioner.log_probability(images, others)
    torch.testing.assert_close(ratio, expected)
    contrast = cea.NormGrad(lambda x: captioner.log_probability_ratio(x, captions, others), captioner.encoder.layer4)
    assert contrast.attribute(images).shape == (2, 1, 12, 12)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["eleven"], "has the word 'eleven'; expected words of zero"),
        (["<end>"], "has the word '<end>'"),
        (["one", "two"], "captions is 2 captions for 1 images"),
        ("one", "captions is 'one' for 1 images; expected a list"),
    ],
)
def test_wrong_captions(captioner, captions, message):
    with pytest.raises(ValueError, match=message):
        captioner.log_probability(torch.zeros(1, 3, 96, 96), captions)


def test_a_batch_has_no_single_caption(captioner):
    with pytest.raises(ValueError, match="expected one image"):
        captioner.caption(torch.zeros(1, 3, 96, 96))
