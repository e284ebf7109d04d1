"""What is explained, beyond the classes of a classifier: any method and measure takes one of these as its model.

Each is a `torch.nn.Module` with the very parts of the model that it asks (the same layers under the same names, the
same parameters, its attributes) and an output of its own. So layers go by the model's names, and `default_layers`,
`FullGrad`, `MetaSaliency` and `parameter_randomization` work as they do on the model itself, which is left as it is.

`model` is a model, one of its methods (`clip.get_image_features`), or a `functools.partial` of either with keyword
arguments for every call (`functools.partial(vit, interpolate_pos_encoding=True)`).
"""

from captum_extract_aggregate.scores.base import Score, SelectedOutput
from captum_extract_aggregate.scores.contrast import ClassContrast
from captum_extract_aggregate.scores.detection import Detection
from captum_extract_aggregate.scores.disconnected import DiFull, DiPart
from captum_extract_aggregate.scores.embeddings import EmbeddingDirection, EmbeddingSimilarity
from captum_extract_aggregate.scores.nearest import NearestContrast
from captum_extract_aggregate.scores.segmentation import SegmentationRegion

__all__ = [
    "ClassContrast",
    "Detection",
    "DiFull",
    "DiPart",
    "EmbeddingDirection",
    "EmbeddingSimilarity",
    "NearestContrast",
    "Score",
    "SegmentationRegion",
    "SelectedOutput",
]
