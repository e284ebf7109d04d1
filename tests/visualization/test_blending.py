"""A map over a photograph so that both can be read."""

import numpy as np
import pytest

from captum_extract_aggregate.visualization.blending import OPACITY, blended, colours_of, opacities, paled

PICTURE = np.random.default_rng(0).random((4, 5, 3))


def test_half_of_the_colours_is_left():
    saturation = lambda picture: np.ptp(picture, axis=2)  # noqa: E731
    assert np.allclose(saturation(paled(PICTURE)), saturation(PICTURE) / 2)
    assert np.allclose(paled(PICTURE).mean(2), PICTURE.mean(2))


def test_larger_values_cover_more_and_undefined_ones_nothing():
    covered = opacities(np.array([0.0, 0.25, -0.25, 1.0, 4.0, np.nan, np.inf]), 1.0)
    assert np.allclose(covered, [0, OPACITY / 2, OPACITY / 2, OPACITY, OPACITY, 0, OPACITY])


@pytest.mark.parametrize("sign", ["all", "positive"])
def test_a_blend_lies_between_its_parts(sign):
    values = np.linspace(-1 if sign == "all" else 0, 1, 20).reshape(4, 5)
    found = blended(PICTURE, values, 1.0, sign)
    over = colours_of(sign)((values + 1) / 2 if sign == "all" else values)[..., :3]
    assert (found <= np.maximum(paled(PICTURE), over) + 1e-12).all()
    assert (found >= np.minimum(paled(PICTURE), over) - 1e-12).all()
    assert np.allclose(blended(PICTURE, 0 * values, 1.0, sign), paled(PICTURE))


def test_for_and_against_are_told_apart_without_red_green_vision():
    """Orange and purple differ in blue and in lightness, which all but the rarest colour vision sees."""
    against, for_it = (np.array(colours_of("all")(end)[:3]) for end in (0.0, 1.0))
    assert against[2] - for_it[2] > 0.5
    lightness = np.array([0.2126, 0.7152, 0.0722])
    assert (for_it - against) @ lightness > 0.3


def test_both_ends_are_seen_in_grey():
    """What is most for the class is brighter than a photograph's middle grey, what is most against it darker."""
    luma = colours_of("all")([0.0, 0.25, 0.75, 1.0])[:, :3] @ np.array([0.299, 0.587, 0.114])
    assert list(luma) == sorted(luma)
    assert luma[0] < 0.2
    assert luma[3] > 0.8
