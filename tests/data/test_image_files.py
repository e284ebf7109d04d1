"""Pictures of every kind that a user may hand in."""

import numpy as np
import pytest
from PIL import Image

from captum_extract_aggregate.data.image_files import load_image, pictures_below

GRADIENT = np.linspace(0, 1, 20 * 30).reshape(20, 30)


def saved(tmp_path, picture, name="picture.png", **options):
    path = tmp_path / name
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "PA"])
def test_modes(tmp_path, mode):
    base = Image.fromarray((GRADIENT * 255).astype(np.uint8))
    if mode == "PA":
        picture = base.convert("P")
        path = saved(tmp_path, picture, transparency=0)
    else:
        path = saved(tmp_path, base.convert("RGB").convert(mode) if mode != "LA" else base.convert("LA"))
    got = load_image(path)
    assert (got.mode, got.size) == ("RGB", (30, 20))


@pytest.mark.parametrize("name", ["picture.jpg", "picture.tiff"])
def test_cmyk(tmp_path, name):
    assert load_image(saved(tmp_path, Image.new("CMYK", (9, 8), (0, 255, 255, 0)), name)).getpixel((3, 3))[0] > 200


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((GRADIENT * 65535).astype(np.uint16), "picture.png"),
        ((GRADIENT * 65535).astype(np.int32), "picture.tiff"),
        (GRADIENT.astype(np.float32), "picture.tiff"),
        (((GRADIENT - 0.5) * 1e6).astype(np.float32), "picture.tiff"),
    ],
)
def test_sixteen_bits_and_more(tmp_path, values, name):
    got = np.asarray(load_image(saved(tmp_path, Image.fromarray(values), name)))[..., 0] / 255
    assert np.abs(got - GRADIENT).max() < 0.01


def test_transparent_parts_are_white(tmp_path):
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    picture.putpixel((1, 1), (255, 0, 0, 255))
    got = load_image(saved(tmp_path, picture))
    assert got.getpixel((0, 0)) == (255, 255, 255)
    assert got.getpixel((1, 1)) == (255, 0, 0)


def test_exif_rotation(tmp_path):
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned a quarter
    assert load_image(saved(tmp_path, picture, "picture.jpg", exif=exif)).size == (20, 30)


def test_a_picture_of_ninety_million_pixels(tmp_path):
    path = saved(tmp_path, Image.new("1", (9500, 9500)))
    assert load_image(path).size == (9500, 9500)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"0" * 50, b"GIF89a"])
def test_what_is_no_picture(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png"):
        load_image(path)


def test_the_pictures_below_a_folder(tmp_path):
    kept = ["a.jpg", "b.PNG", "deep/er/c.tiff"]
    for name in (*kept, ".hidden.png", ".cache/d.png", "notes.txt", "clip.mpg", "numbers.h5", "out/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = pictures_below(tmp_path, but=tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in found] == kept
    assert tmp_path / "out" / "e.png" in pictures_below(tmp_path)
    with pytest.raises(ValueError, match=r"folder\.png' cannot be read: .* holds no pictures; expected files such as"):
        pictures_below(tmp_path / "folder.png")


def test_truncated_missing_and_too_large(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "picture.jpg")
    short = tmp_path / "short.jpg"
    short.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"short\.jpg.*cannot be read"):
        load_image(short)
    with pytest.raises(ValueError, match="no file"):
        load_image(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match="is a folder"):
        load_image(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="more than 2,000 pixels"):
        load_image(path)
