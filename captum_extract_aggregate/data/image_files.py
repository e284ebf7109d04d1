"""Pictures from files, whatever their format, as upright 8-bit RGB."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from captum_extract_aggregate._common.errors import InvalidValueError, is_virtual

_NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG"}  # which Pillow knows, and does not decode
_SENT = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # the formats that others may send


def load_image(path: str | Path) -> Image.Image:
    """Returns the picture in a file: turned upright by its EXIF tag, in 8-bit RGB, transparent parts white.

    Raises ValueError with the cause if there is no such file, it is no picture, or it is damaged or too large.
    """
    path = Path(path)
    try:
        refuse_virtual(path)
        if path.exists() and not path.is_file():
            raise InvalidValueError(f"{str(path)!r} cannot be read: it is a folder or a device, not a file")
    except OSError as error:  # a name that no file can have
        raise InvalidValueError(f"picture {str(path)!r} cannot be read: {error.strerror}") from None
    try:
        return _read(path, str(path), 2 * (Image.MAX_IMAGE_PIXELS or 0))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidValueError(f"there is no file {str(path)!r}") from None


def pictures_below(folder: Path, but: Path | None = None) -> list[Path]:
    """Returns the pictures in a folder and the folders in it, in order: files whose names end as those that Pillow
    reads do. Hidden files and folders are left out, and what lies in `but`, where results go.

    Raises ValueError where there is none.
    """
    known = {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in _NO_PICTURES}
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in known
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and (but is None or not file.resolve().is_relative_to(but.resolve()))
        and file.is_file()
    ]
    if not found:
        raise InvalidValueError(
            f"{str(folder)!r} cannot be read: it is a folder or a device, which holds no pictures; expected files such "
            "as .jpg and .png in it"
        )
    return found


def image_in(content: bytes, name: str, most_pixels: int) -> Image.Image:
    """Returns the picture in a file's bytes, as `load_image`, of a usual format and of at most so many pixels.

    Raises ValueError with the cause if it is no picture, is damaged or too large; nothing is decoded before its size
    is known.
    """
    return _read(io.BytesIO(content), name, most_pixels, _SENT)


def _read(file: Path | io.BytesIO, name: str, most_pixels: int, formats: tuple[str, ...] | None = None) -> Image.Image:
    too_large = f"{name!r} has more than {most_pixels:,} pixels; scale it down first"
    try:
        alone = threading.current_thread() is threading.main_thread()
        with unwarned() if alone else contextlib.nullcontext(), Image.open(file, formats=formats) as picture:
            if picture.width * picture.height > most_pixels > 0:
                raise InvalidValueError(too_large)
            picture.load()
            return to_rgb(ImageOps.exif_transpose(picture))
    except (InvalidValueError, FileNotFoundError, NotADirectoryError):
        raise
    except UnidentifiedImageError:
        known = "Pillow reads" if formats is None else f"is taken here ({', '.join(formats)})"
        raise InvalidValueError(f"{name!r} is not a picture in a format that {known}") from None
    except Image.DecompressionBombError:
        raise InvalidValueError(too_large) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InvalidValueError(f"{name!r} cannot be read: {error}") from None


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Within, Pillow does not warn of pictures that are large, but below its error's limit. For one thread alone, as
    Python's filters of warnings are the whole process's, and come back in the order in which they were kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def refuse_virtual(path: Path) -> None:
    """Raises our error for what lies on no disk."""
    if is_virtual(path):
        raise InvalidValueError(f"{str(path)!r} lies in /{path.resolve().parts[1]}, which holds no pictures")


def to_rgb(picture: Image.Image) -> Image.Image:
    """Returns a picture of any mode in 8-bit RGB, transparent parts white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(to_8_bit(np.asarray(picture))).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scales 16-bit integers by their range; anything else that does not fit, from its smallest to its largest
    value."""
    fractional = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64))
    low, high = values.min(), values.max()
    if low < 0 or high > 65535 or (fractional and high <= 1):
        values = (values - low) / max(high - low, 1e-12) * 255
    elif high > 255:
        values = values / 257
    return values.round().clip(0, 255).astype(np.uint8)
