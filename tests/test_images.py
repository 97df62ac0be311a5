"""Every kind of image file becomes what a person sees, and every broken one a clear line."""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edit_r1.errors import UserError
from edit_r1.images import image_hash, open_image, to_array, to_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half_red_half_blue() -> Image.Image:
    """16 x 8, the left half red."""
    image = Image.new("RGB", (16, 8), BLUE)
    image.paste(RED, (0, 0, 8, 8))
    return image


def difference(pixel: object, colour: tuple[int, int, int]) -> int:
    assert isinstance(pixel, tuple)
    return int(np.abs(np.subtract(pixel, colour)).max())


@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [(1, (16, 8), (2, 4)), (3, (16, 8), (13, 4)), (6, (8, 16), (4, 2)), (8, (8, 16), (4, 13))],
)
def test_exif_orientation_is_applied(orientation: int, size: tuple[int, int], red: tuple[int, int]) -> None:
    """Orientation 6 says "turn 90 degrees clockwise to view": what was left comes to the top; 8 is the other way."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(half_red_half_blue(), "JPEG", exif=exif, quality=100, subsampling=0))
    assert image.size == size
    assert difference(image.getpixel(red), RED) < 10  # JPEG is lossy
    # The orientation is applied once: reading what we would write does not turn it again.
    assert open_image(encoded(image)).size == size


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_matter() -> None:
    exif = b"Exif\x00\x00" + b"MM\x00*" + b"\xff" * 30
    image = open_image(encoded(half_red_half_blue(), "JPEG", exif=exif))
    assert image.size == (16, 8)


def test_alpha_is_composited_on_white() -> None:
    """Red at alpha 128 on white: 255 stays 255, and 0 becomes 255 * (1 - 128/255) = 127."""
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    image.putpixel((2, 0), (255, 0, 0, 255))
    opened = open_image(encoded(image))
    assert opened.mode == "RGB"
    assert opened.getpixel((0, 0)) == WHITE
    assert opened.getpixel((1, 0)) == (255, 127, 127)
    assert opened.getpixel((2, 0)) == RED


def test_grey_with_alpha() -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (40, 255))
    opened = open_image(encoded(image))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [WHITE, (40, 40, 40)]


def test_palette_with_a_transparent_entry() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*BLUE, *GREEN])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        opened = open_image(encoded(image, kind, transparency=0))
        assert [opened.getpixel((x, 0)) for x in range(2)] == [WHITE, GREEN], kind


def test_rgb_with_a_transparent_colour() -> None:
    opened = open_image(encoded(half_red_half_blue(), transparency=BLUE))
    assert opened.getpixel((0, 0)) == RED
    assert opened.getpixel((15, 0)) == WHITE


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    """No cyan, full magenta and yellow, no black is red."""
    options = {"quality": 100} if kind == "JPEG" else {}
    opened = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind, **options))
    assert opened.mode == "RGB"
    assert difference(opened.getpixel((4, 4)), RED) < 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    """65535 is white, and 257 * v is v: 16 bits are divided by 257, not cut off at 255."""
    values = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    opened = open_image(encoded(Image.fromarray(values), kind))
    assert np.asarray(opened)[0].tolist() == [[v, v, v] for v in (0, 10, 128, 255)]


def test_big_endian_sixteen_bit_grey() -> None:
    """A hand-made 2 x 1 TIFF in Motorola byte order: grey values 0x0A0A and 0xFFFF."""
    tags = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 4)]
    body = struct.pack(">2sHI", b"MM", 42, 12) + struct.pack(">HH", 0x0A0A, 0xFFFF)
    body += struct.pack(">H", len(tags))
    for tag, value in tags:
        body += struct.pack(">HHIHH", tag, 3, 1, value, 0)
    opened = open_image(body + struct.pack(">I", 0))
    assert np.asarray(opened)[0].tolist() == [[10, 10, 10], [255, 255, 255]]


def test_float_grey() -> None:
    inside = Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32))
    assert np.asarray(open_image(encoded(inside, "TIFF")))[0, :, 0].tolist() == [0, 51, 255]
    outside = Image.fromarray(np.array([[0.0, 99.0]], dtype=np.float32))
    with pytest.raises(UserError, match=r"values outside 0\.\.1; save it as"):
        open_image(encoded(outside, "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L"])
def test_black_and_white(mode: str) -> None:
    assert open_image(encoded(Image.new(mode, (2, 2), 255))).getpixel((0, 0)) == WHITE


def test_a_mode_without_a_conversion_is_refused_in_words() -> None:
    with pytest.raises(UserError, match="colour mode La, which is not supported; save it as RGB"):
        to_array(Image.new("La", (2, 2)))


def test_the_first_frame_of_an_animation() -> None:
    first, second = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), BLUE)
    opened = open_image(encoded(first, "GIF", save_all=True, append_images=[second]))
    assert opened.getpixel((0, 0)) == RED


def bomb(width: int, height: int) -> bytes:
    """A tiny PNG that claims to be very large, with valid checksums."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8_001, 10_000, 60_000], ids=["ours", "Pillow warns", "Pillow refuses"])
@pytest.mark.filterwarnings("ignore:Image size")
def test_a_decompression_bomb_is_not_decoded(side: int) -> None:
    with pytest.raises(UserError, match=r"upload\.png has more than 64,000,000 pixels; make it smaller"):
        open_image(bomb(side, side), name="upload.png")


def test_the_limit_of_pixels_is_inclusive() -> None:
    data = encoded(half_red_half_blue())
    assert open_image(data, max_pixels=128).size == (16, 8)
    with pytest.raises(UserError, match=r"more than 127 pixels; make it smaller first \(it is 16 x 8\)"):
        open_image(data, max_pixels=127)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_cut_short_is_named(kind: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for share in (0.05, 0.5, 0.9):
        path = tmp_path / f"cut{share}.{kind.lower()}"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UserError) as caught:
            open_image(path)
        message = str(caught.value)
        assert str(path) in message
        assert "again" in message or "save it as" in message
        assert "\n" not in message


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_escapes_as_another_error(data: st.DataObject) -> None:
    """Whatever bytes of a file are overwritten, it opens or it is a UserError."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]))
    content = bytearray(encoded(half_red_half_blue(), kind))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(UserError):
            assert open_image(bytes(content), max_pixels=1_000_000).mode == "RGB"


def test_missing_unreadable_and_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image at .*none\.png; check the path"):
        open_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="is a folder"):
        open_image(tmp_path)
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    with pytest.raises(UserError, match=r"notes\.png is not an image that can be read; save it as PNG"):
        open_image(str(text))
    text.write_bytes(b"")
    with pytest.raises(UserError, match=r"notes\.png is empty"):
        open_image(text)
    with pytest.raises(UserError, match="cannot be read"):
        open_image("a\0b.png")


def test_formats_that_start_other_programs_are_not_read() -> None:
    with pytest.raises(UserError, match="is not an image that can be read"):
        open_image(encoded(half_red_half_blue(), "EPS"))


def test_array_has_channels_first_and_unit_range() -> None:
    array = to_array(half_red_half_blue())
    assert array.dtype == np.float32
    assert array.shape == (3, 8, 16)
    assert array[:, 0, 0].tolist() == [1, 0, 0]
    assert array[:, 7, 15].tolist() == [0, 0, 1]


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (5, 7, 3)))
def test_image_to_array_and_back_is_exact(pixels: np.ndarray) -> None:
    assert (np.asarray(to_image(to_array(Image.fromarray(pixels)))) == pixels).all()


def test_to_image_clips_rounds_and_refuses() -> None:
    """0.5 * 255 = 127.5 goes to the even 128; 0.499 * 255 = 127.2 to 127."""
    array = np.array([-1.0, 0.499, 0.5, 2.0]).reshape(1, 1, 4).repeat(3, axis=0)
    assert np.asarray(to_image(array))[0, :, 0].tolist() == [0, 127, 128, 255]
    with pytest.raises(ValueError, match=r"\[3, H, W\], got \[8, 16, 3\]"):
        to_image(np.zeros((8, 16, 3)))
    with pytest.raises(ValueError, match="not finite"):
        to_image(np.full((3, 1, 1), np.nan))


def test_hash_is_of_the_picture_not_of_the_file() -> None:
    image = half_red_half_blue()
    assert image_hash(open_image(encoded(image, "PNG"))) == image_hash(open_image(encoded(image, "BMP")))
    assert image_hash(image) == image_hash(image.convert("RGBA"))
    changed = image.copy()
    changed.putpixel((3, 3), (254, 0, 0))
    assert image_hash(changed) != image_hash(image)
    # The same bytes in another shape are another picture.
    assert image_hash(Image.new("RGB", (4, 2))) != image_hash(Image.new("RGB", (2, 4)))
    assert len(image_hash(image)) == 64
