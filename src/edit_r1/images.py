"""Images at the edges of the system: any file in, PIL RGB out; and float arrays in [0, 1] inside.

Shapes: C channels (3), H height, W width, in pixels.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edit_r1.errors import UserError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a small file can unpack to gigabytes (a decompression bomb)."""

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000")
"""Pillow knows more, and some of those (EPS) start other programs on what may be an untrusted file."""

# What Pillow's decoders raise on damaged files, besides their own errors.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


def open_image(source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image as a person sees it: upright, on white, 8-bit RGB.

    The EXIF orientation is applied, transparency (an alpha channel, a transparent palette entry or colour) is
    composited on white, palettes and CMYK are converted, and 16-bit grey is scaled to 8 bits. Of an animation the first
    frame is taken. Colour profiles are not applied.

    Args:
        source: a path, or the bytes of an image file.
        name: what an error calls the image; the path by default.
        max_pixels: the largest width times height that is decoded.

    Raises:
        UserError: the image is missing, unreadable, damaged, cut short or too large.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else _read(Path(source), name)
    if not data:
        raise UserError(f"{name} is empty (0 bytes); give a PNG, JPEG or WebP image")
    image = _decode(data, name, max_pixels)
    return _to_rgb(image, name)


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no image at {name}; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder; give the path of an image file") from None
    except PermissionError:
        raise UserError(f"{name} may not be read; change its permissions") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read ({_reason(error)}); check the path and the disk") from error


def _decode(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Decode the first frame and turn it upright; damaged metadata do not matter, damaged pixels do."""
    too_large = f"{name} has more than {max_pixels:,} pixels; make it smaller first"
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise UserError(f"{too_large} (it is {image.width} x {image.height})")
        image.load()
    except _TOO_LARGE as error:
        raise UserError(too_large) from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not an image that can be read; save it as PNG, JPEG or WebP") from error
    except MemoryError as error:
        raise UserError(f"{name} does not fit into memory; make it smaller first") from error
    except _DAMAGED as error:
        raise UserError(f"{name} is damaged or cut short ({_reason(error)}); copy or save it again") from error
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED:
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        return _grey(np.asarray(image).astype(np.float64) / 65535)
    if image.mode in ("I", "F"):
        return _grey(_unit_range(image, name))
    try:
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            paper = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(paper, layer).convert("RGB")
        # A fresh image: no metadata, no palette, no lazy file behind it.
        return Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
    except ValueError as error:
        raise UserError(f"{name} has the colour mode {image.mode}, which is not supported; save it as RGB") from error


def _unit_range(image: Image.Image, name: str) -> NDArray[np.float64]:
    """Scale 32-bit grey to [0, 1]: integers as 16-bit values, as most files of this mode hold; floats as they are."""
    pixels = np.asarray(image).astype(np.float64)
    top = 65535 if image.mode == "I" else 1
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= top):
        raise UserError(f"{name} is 32-bit grey with values outside 0..{top}; save it as 8-bit or 16-bit PNG")
    return pixels / top


def _grey(pixels: NDArray[np.float64]) -> Image.Image:
    """8-bit RGB of a grey picture [H, W] in [0, 1]."""
    return Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).convert("RGB")


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def to_array(image: Image.Image) -> NDArray[np.float32]:
    """The pixels as float32 [C, H, W] in [0, 1]; images that are not RGB are converted as `open_image` does."""
    rgb = image if image.mode == "RGB" else _to_rgb(image, "the image")
    pixels = np.asarray(rgb, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_image(array: NDArray[np.floating]) -> Image.Image:
    """The image of an array [3, H, W] in [0, 1]; values outside are clipped, others go to the nearest of 256 levels.

    `to_image(to_array(image))` is `image`, bit for bit.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    if array.ndim != 3 or array.shape[0] != 3:
        raise ValueError(f"expected an array of shape [3, H, W], got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("the array holds values that are not finite")
    pixels = np.rint(np.clip(array.astype(np.float64), 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def image_hash(image: Image.Image) -> str:
    """SHA-256 of the size and the RGB pixels in hexadecimal: equal for equal pictures, whatever file they came from."""
    rgb = image if image.mode == "RGB" else _to_rgb(image, "the image")
    width, height = rgb.size
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()
