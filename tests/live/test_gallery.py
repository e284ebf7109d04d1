"""Pictures of the page: what is kept, what is refused, and which go first."""

import io

import numpy as np
import pytest
from PIL import Image

from captum_extract_aggregate.data import DigitScenes
from captum_extract_aggregate.live import gallery
from captum_extract_aggregate.live.gallery import Gallery, photo_of, scenes
from tests.live.given import content, picture


def test_a_picture_is_found_by_its_content_under_the_name_it_came_with():
    found = Gallery([])
    first, again = found.add(content(picture()), "a\n.png"), found.add(content(picture()), "b.png")
    assert first.id == again.id == photo_of(picture(), "").id
    assert first.name == "a .png"
    assert found[first.id].name == "b.png"
    assert found.add(content(picture(seed=1)), "").id != first.id
    assert [photo.name for photo in found.all()] == ["a picture", "b.png"]
    assert np.array_equal(np.asarray(found[first.id].picture), np.asarray(picture()))
    assert max(Image.open(io.BytesIO(photo_of(picture(400, 300), "").thumbnail())).size) == 160


def test_the_user_s_own_stay_and_the_oldest_dropped_go(monkeypatch):
    monkeypatch.setattr(gallery, "_MOST_KEPT", 2 * 60 * 40)
    own = photo_of(picture(seed=9), "own")
    found = Gallery([own])
    dropped = [found.add(content(picture(seed=seed)), str(seed)) for seed in range(3)]
    assert [photo.name for photo in found.all()] == ["2", "1", "own"]
    with pytest.raises(ValueError, match="not here any more; expected it to be dropped again"):
        found[dropped[0].id]
    assert found.add(content(picture(seed=9)), "other") is own


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "is not a picture in a format that is taken here"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture"),
        (content(picture())[:300], "cannot be read"),
        (content(picture(), "PPM"), "is not a picture"),  # Pillow reads it
    ],
)
def test_what_is_no_picture(sent, said):
    with pytest.raises(ValueError, match=said):
        Gallery([]).add(sent, "x.png")


def test_what_is_too_large_is_not_decoded(monkeypatch):
    monkeypatch.setattr(gallery, "MOST_PIXELS", 60 * 40 - 1)
    sent = content(picture())
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="has more than 2,399 pixels"):
        Gallery([]).add(sent, "x.png")


def test_scenes():
    first, second = scenes(2)
    assert (first.id, second.name) == ("scene-0", "scene 1")
    image, about = DigitScenes(n=2)[1]
    assert (second.scene == image).all()
    assert second.labels == tuple(sorted(set(about["labels"].tolist())))
