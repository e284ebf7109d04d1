"""A small captioner of the digit scenes, with its trained weights: its score is the probability of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.data.scene_models import SceneResNet, load_scene_model, load_weights

START, END = "<start>", "<end>"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (START, *DIGITS, "and", ",", END)
_NUMBERS = {word: i for i, word in enumerate(WORDS)}
_LONGEST = 20  # words; ten digits, their separators and the end
_WIDTH = 128


def caption_of(classes: Tensor) -> str:
    """Returns the true caption of a scene: the names of its classes (multi-hot, `10`), in ascending order.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.data.captioner import caption_of
        >>> caption_of(torch.tensor([0, 0, 0, 1, 0, 0, 0, 1, 0, 1]))
        'three , seven and nine'
    """
    names = [DIGITS[i] for i in classes.nonzero().flatten().tolist()]
    return " and ".join([" , ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


class SceneCaptioner(nn.Module):
    """Says which digits a scene shows, in ascending order and words: `"three , seven and nine"`.

    The encoder is a `SceneResNet`, whose 96 averaged features a GRU cell sees with every word. Words are separated by
    spaces; a comma is a word, and the end of the caption is one too, the last.

    Every method below is a differentiable function of the images, so that a caption, or a word of it, can be explained
    at the layers of `captioner.encoder`. `load_scene_captioner` loads the trained one.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.data import load_scene_captioner
        >>> captioner = load_scene_captioner()
        >>> images, captions = cea.DigitScenes(n=1)[0][0][None], ["two and three"]
        >>> method = cea.NormGrad(lambda x: captioner.log_probability(x, captions), captioner.encoder.layer3)
        >>> method.attribute(images).shape
        torch.Size([1, 1, 24, 24])
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SceneResNet()
        features = self.encoder.fc.in_features
        self.embedding = nn.Embedding(len(WORDS), 32)
        self.start = nn.Linear(features, _WIDTH)
        self.cell = nn.GRUCell(32 + features, _WIDTH)
        self.output = nn.Linear(_WIDTH, len(WORDS))

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """Returns the logits, `N x L x 14`, of the words that come after each of `words` (`N x L`, numbers in
        `WORDS`)."""
        return self.decode(self.encoder.features(images), words)

    def decode(self, features: Tensor, words: Tensor) -> Tensor:
        """Returns what `forward` gives, from the encoder's features, `N x 96`."""
        state, logits = torch.tanh(self.start(features)), []
        for word in words.unbind(1):
            state = self.cell(torch.cat([self.embedding(word), features], 1), state)
            logits.append(self.output(state))
        return torch.stack(logits, 1)

    @torch.no_grad()
    def caption(self, image: Tensor) -> str:
        """Returns the caption of one image, `3 x 96 x 96`: word by word the likeliest.

        Raises:
            ValueError: for another shape.

        Example:
            >>> import captum_extract_aggregate as cea
            >>> from captum_extract_aggregate.data import load_scene_captioner
            >>> load_scene_captioner().caption(cea.DigitScenes(n=3)[0][0])
            'one and five'
        """
        if image.ndim != 3:
            raise InvalidValueError(f"image has shape {tuple(image.shape)}; expected one image, 3 x 96 x 96")
        return self.captions(self.encoder.features(image[None]))[0]

    @torch.no_grad()
    def captions(self, features: Tensor) -> list[str]:
        """Returns the captions of several images from the encoder's features, `N x 96`."""
        said = torch.full((len(features), 1), _NUMBERS[START], device=features.device)
        state = torch.tanh(self.start(features))
        for _ in range(_LONGEST):
            state = self.cell(torch.cat([self.embedding(said[:, -1]), features], 1), state)
            said = torch.cat([said, self.output(state).argmax(1, keepdim=True)], 1)
        return [_text(numbers) for numbers in said[:, 1:].tolist()]

    def log_probability(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Returns the natural logarithm of the probability of each image's caption, `N`: the sum of its words' and its
        end's.

        Args:
            images: `N x 3 x 96 x 96`.
            captions: one for each image.

        Raises:
            ValueError: for another number of captions, and for words that the captioner does not know.

        Example:
            >>> import captum_extract_aggregate as cea
            >>> from captum_extract_aggregate.data import load_scene_captioner
            >>> captioner, image = load_scene_captioner(), cea.DigitScenes(n=1)[0][0]
            >>> captions = [captioner.caption(image), "zero and one"]
            >>> said, other = captioner.log_probability(image.expand(2, -1, -1, -1), captions)
            >>> bool(said > other)
            True
        """
        return self.word_log_probabilities(images, captions).sum(1)

    def word_log_probabilities(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Returns the same for each word given the words before it, `N x L`: `target=i` explains word `i`.

        L is the number of words of the longest caption and its end; behind the end of shorter ones stands 0.

        Args, Raises:
            As for `log_probability`.

        Example:
            >>> import captum_extract_aggregate as cea
            >>> from captum_extract_aggregate.data import load_scene_captioner
            >>> captioner, image = load_scene_captioner(), cea.DigitScenes(n=1)[0][0]
            >>> captioner.word_log_probabilities(image[None], ["three and nine"]).shape
            torch.Size([1, 4])
        """
        return self._score(self.encoder.features(images), captions)

    def log_probability_ratio(self, images: Tensor, captions: Sequence[str], others: Sequence[str]) -> Tensor:
        """Returns how much likelier each image's caption is than another: the difference of their log-probabilities,
        `N`.

        The encoder runs once for both, so that its layers can be explained.

        Args:
            images, captions: as for `log_probability`.
            others: the captions to compare with, one for each image.

        Raises:
            ValueError: as `log_probability`.

        Example:
            >>> import captum_extract_aggregate as cea
            >>> from captum_extract_aggregate.data import load_scene_captioner
            >>> captioner, image = load_scene_captioner(), cea.DigitScenes(n=1)[0][0]
            >>> bool(captioner.log_probability_ratio(image[None], [captioner.caption(image)], ["zero"]) > 0)
            True
        """
        features = self.encoder.features(images)
        return self._score(features, captions).sum(1) - self._score(features, others).sum(1)

    def _score(self, features: Tensor, captions: Sequence[str]) -> Tensor:
        if isinstance(captions, str) or len(captions) != len(features):
            got = repr(captions) if isinstance(captions, str) else f"{len(captions)} captions"
            raise InvalidValueError(
                f"captions is {got} for {len(features)} images; expected a list, one caption for each image"
            )
        words = encode_captions(captions).to(features.device)
        logits = self.decode(features, words[:, :-1].clamp(min=0))
        return masked_log_probabilities(logits, words[:, 1:])


def encode_captions(captions: Sequence[str]) -> Tensor:
    """Returns captions as numbers of words, `N x (1 + L)`: the start, the words, the end, then -1."""
    rows = [[START, *caption.split(), END] for caption in captions]
    for row in rows:
        for word in row[1:-1]:
            if word not in _NUMBERS or word in (START, END):
                raise InvalidValueError(f"a caption has the word {word!r}; expected words of {' '.join(WORDS[1:-1])}")
    longest = max(map(len, rows), default=0)
    return torch.tensor([[_NUMBERS[word] for word in row] + [-1] * (longest - len(row)) for row in rows])


def masked_log_probabilities(logits: Tensor, words: Tensor) -> Tensor:
    """Returns the log-probabilities of words, `N x L`; 0 where the word is -1."""
    chosen = logits.log_softmax(2).gather(2, words.clamp(min=0)[..., None])[..., 0]
    return chosen * (words >= 0)


def _text(numbers: list[int]) -> str:
    words = [WORDS[i] for i in numbers]
    return " ".join(words[: words.index(END)] if END in words else words)


def load_scene_captioner() -> SceneCaptioner:
    """Returns the trained `SceneCaptioner`, in eval mode; its encoder is `load_scene_model("resnet")`.

    Example:
        >>> from captum_extract_aggregate.data import DigitScenes, load_scene_captioner
        >>> load_scene_captioner().caption(DigitScenes(n=2)[1][0])
        'five'
    """
    captioner = build_scene_captioner()
    captioner.load_state_dict(load_weights("scene_captioner"), strict=False)
    return captioner.eval()


def build_scene_captioner() -> SceneCaptioner:
    """Returns a captioner with a trained encoder and an untrained decoder."""
    captioner = SceneCaptioner()
    captioner.encoder = cast(SceneResNet, load_scene_model("resnet"))
    return captioner
