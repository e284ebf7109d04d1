"""Where an image lies among texts, other images and directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.outputs import embeddings_or_output, find_embeddings
from captum_extract_aggregate.scores.base import Model, Score

_OF_A_PICTURE = ("get_image_features", "encode_image")  # what models of pictures and texts call it


class _OfEmbedding(Score):
    """Scores of an embedding against one vector, `N`, or against M of them, `N x M`."""

    def __init__(self, model: Model, vectors: Tensor, name: str) -> None:
        super().__init__(model)
        tower = next((n for n in _OF_A_PICTURE if isinstance(model, nn.Module) and hasattr(model, n)), None)
        if tower is not None:
            raise InvalidTypeError(
                f"model is a {type(model).__name__}, which takes a text too; expected its method that gives the "
                f"embedding of a picture: model.{tower}"
            )
        got, vectors = vectors, embeddings_or_output(vectors)
        if not isinstance(vectors, Tensor):
            raise InvalidTypeError(
                f"{name} is a {type(got).__name__}; expected a tensor, D or M x D, or what get_text_features returns"
            )
        if vectors.ndim not in (1, 2) or not vectors.is_floating_point():
            raise InvalidValueError(
                f"{name} is a tensor of {vectors.dtype} {tuple(vectors.shape)}; expected floating point numbers, D, or "
                "M x D for M of them"
            )
        self.keep(vectors=vectors.detach(), name=name)

    def _embedding(self, output: Any) -> tuple[Tensor, Tensor]:
        embedding = find_embeddings(output)
        vectors = self.kept.vectors.to(embedding)
        if vectors.shape[-1] != embedding.shape[1]:
            raise InvalidValueError(
                f"{self.kept.name} has {vectors.shape[-1]} numbers, and the model's embedding {embedding.shape[1]}; "
                "expected as many: what the same model gives, behind its projections"
            )
        return embedding, vectors


class EmbeddingSimilarity(_OfEmbedding):
    r"""The cosine similarity of the image's embedding to that of a text, or of another image (CLIP, SigLIP, DINOv2).

    .. math:: f_m = s \, \frac{e(x) \cdot t_m}{\lVert e(x) \rVert \, \lVert t_m \rVert}

    Args:
        model: what gives the image's embedding, `N x D`: `clip.get_image_features`, `open_clip_model.encode_image`, a
            `torch.nn.Module`; of an output with several tensors its `image_embeds` or `pooler_output`.
        embeddings: of the text or the image, `D`; of M texts `M x D`, and then `target=m` explains the m-th (CLIP's
            zero-shot classes). What `clip.get_text_features` returns is taken as it is.
        scale: s; `clip.logit_scale.exp()` gives CLIP's own logits.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import EmbeddingSimilarity
        >>> encoder = cea.load_scene_model("resnet")
        >>> images = torch.stack([image for image, _ in cea.DigitScenes(n=2)])
        >>> similarity = EmbeddingSimilarity(encoder.features, encoder.features(images[1:])[0])
        >>> cea.LinearApproximation(similarity, "layer3").attribute(images[:1]).shape
        torch.Size([1, 1, 24, 24])

    Source: Radford et al., ICML 2021 (CLIP).
    """

    def __init__(self, model: Model, embeddings: Tensor, *, scale: float | Tensor = 1.0) -> None:
        super().__init__(model, embeddings, "embeddings")
        number = scale.item() if isinstance(scale, Tensor) and scale.numel() == 1 else scale
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise InvalidTypeError(f"scale is a {type(scale).__name__}; expected a number")
        self.keep(scale=number)

    def score(self, output: Any, inputs: tuple[Any, ...], *own: Any) -> Tensor:
        embedding, others = self._embedding(output)
        return self.kept.scale * torch.inner(normalize(embedding, dim=1), normalize(others, dim=-1))


class EmbeddingDirection(_OfEmbedding):
    r"""The embedding along a direction, :math:`f_m = e(x) \cdot d_m`: a probe's weight, a concept, a component.

    Args:
        model: what gives the embedding, `N x D`; as for `EmbeddingSimilarity`.
        directions: `D`; or `M x D`, and then `target=m` explains the m-th.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import EmbeddingDirection
        >>> encoder, (image, _) = cea.load_scene_model("resnet"), cea.DigitScenes(n=1)[0]
        >>> direction = encoder.fc.weight[7] - encoder.fc.weight[1]  # what tells sevens from ones
        >>> cea.GradCAM(EmbeddingDirection(encoder.features, direction), "layer3").attribute(image[None]).shape
        torch.Size([1, 1, 24, 24])
    """

    def __init__(self, model: Model, directions: Tensor) -> None:
        super().__init__(model, directions, "directions")

    def score(self, output: Any, inputs: tuple[Any, ...], *own: Any) -> Tensor:
        embedding, directions = self._embedding(output)
        return torch.inner(embedding, directions)
