"""How a map is laid over a photograph so that both can be read.

The photograph keeps half of its colours; the map covers it the more, the larger its value is. So nothing hides the
picture where the map says nothing, which one opacity for the whole map does.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

SIGNS = ("all", "positive", "negative", "absolute_value")
OPACITY = 0.9  # at the largest magnitude
# Told apart with any colour vision, and from most photographs: purple against the class, orange for it. What is most
# against it is the darkest and what is most for it the brightest, so that both are seen in grey, too.
_AGAINST_FOR = [(0.15, 0.0, 0.65), (0.45, 0.15, 0.95), (0.85, 0.82, 0.90), (0.98, 0.58, 0.05), (1.0, 0.86, 0.12)]


@functools.cache
def colours_of(sign: str) -> Colormap:
    """Returns the colours of a sign: purple against and orange for the class where it is `"all"`, else dark to bright.

    Example:
        >>> from captum_extract_aggregate.visualization.blending import colours_of
        >>> colours_of("all").name, colours_of("positive").name
        ('purple_orange', 'inferno')
    """
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("purple_orange", _AGAINST_FOR) if sign == "all" else colormaps["inferno"]


def paled(picture: np.ndarray) -> np.ndarray:
    """Returns a picture `H x W x 3` with half of its colours."""
    return (picture + picture.mean(2, keepdims=True)) / 2  # type: ignore[no-any-return]


def opacities(values: np.ndarray, end: float, opacity: float = OPACITY) -> np.ndarray:
    """Returns how much a map covers at each position: the root of its share of `end`; undefined values nothing."""
    shares = np.nan_to_num(np.abs(values) / end, nan=0.0, posinf=1.0)
    return opacity * np.sqrt(np.clip(shares, 0, 1))  # type: ignore[no-any-return]


def blended(
    picture: np.ndarray, values: np.ndarray, end: float, sign: str, opacity: float = OPACITY, cmap: Any = None
) -> np.ndarray:
    """Returns a picture `H x W x 3` under a map `H x W`, in [0, 1].

    Args:
        picture: in [0, 1].
        values: the map, at the picture's size.
        end: the magnitude at the end of the colours, above 0.
        sign: `"all"` for a map with both signs; else its values are at least 0.
        opacity: of the map at its end.
        cmap: a matplotlib colour map; None: `colours_of(sign)`.

    Example:
        >>> import numpy as np
        >>> from captum_extract_aggregate.visualization.blending import blended
        >>> float(blended(np.ones((2, 2, 3)), np.zeros((2, 2)), 1.0, "all").min())  # nothing covers it
        1.0
    """
    from matplotlib import colormaps

    table = colours_of(sign) if cmap is None else colormaps[cmap] if isinstance(cmap, str) else cmap
    shares = np.nan_to_num(values / end, nan=0.0)
    over = table((shares + 1) / 2 if sign == "all" else shares)[..., :3]
    covered = opacities(values, end, opacity)[..., None]
    return paled(picture) * (1 - covered) + over * covered  # type: ignore[no-any-return]
