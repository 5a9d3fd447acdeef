"""Pictures: every format and mode, damaged files, orientation, size from the header.

python -m pytest tests/test_pictures.py
"""

import io
import random
from pathlib import Path

import pytest
from PIL import Image

from pictures import BadImage, decode, fit, fitted, shown_size


def png(folder, name="a.png", size=(4, 4)):
    Image.new("RGB", size, (10, 20, 30)).save(folder / name)
    return name


def test_decode_paths_bytes_and_images(tmp_path):
    png(tmp_path)
    path = str(tmp_path / "a.png")
    images = decode((path, Path(path).read_bytes(), Image.open(path)), "q")
    assert len(images) == 3 and all(
        i.mode == "RGB" and i.getpixel((1, 1)) == (10, 20, 30) for i in images
    )
    assert decode((), "q") == ()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_decode_makes_rgb_of_every_mode(tmp_path, mode):
    image = Image.new(mode, (4, 4))
    image.save(tmp_path / "x.tiff")
    assert decode((str(tmp_path / "x.tiff"),), "q")[0].mode == "RGB"
    assert decode((image,), "q")[0].mode == "RGB"  # the tiny world hands over gray PIL images


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_every_format_opens(form):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3), "white").save(buffer, format=form)
    [image] = decode((buffer.getvalue(),), "q")
    assert image.size == (5, 3) and image.getpixel((2, 1)) == (255, 255, 255)


def test_an_image_that_does_not_open_names_question_and_file(tmp_path):
    (tmp_path / "bad.png").write_text("not an image")
    with pytest.raises(ValueError, match="q17.*bad.png"):
        decode((str(tmp_path / "bad.png"),), "q17")
    with pytest.raises(ValueError, match="q17.*12 bytes"):
        decode((b"not an image",), "q17")


@pytest.mark.filterwarnings("ignore")  # Pillow's own remarks on damaged TIFF tags
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_broken_files_open_or_raise_value_error(form):
    """Cut at every byte, and with 300 random bytes flipped: never another exception."""
    buffer = io.BytesIO()
    Image.effect_noise((9, 7), 60).convert("RGB").save(buffer, format=form)
    data, rng = buffer.getvalue(), random.Random(0)
    broken = [data[:k] for k in range(0, len(data), 1 + len(data) // 300)]
    for _ in range(300):
        flipped = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            flipped[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        broken.append(bytes(flipped))
    opened = 0
    for b in broken:
        try:
            opened += decode((b,), "q")[0].mode == "RGB"
        except ValueError as e:
            assert "question q" in str(e)
    assert opened < len(broken)


def test_no_white_on_white_no_black_on_black():
    """Transparent pixels are white paper; 16-bit gray is scaled, not clipped."""
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "PNG")
    deep = io.BytesIO()
    Image.new("I;16", (4, 4), 32768).save(deep, "PNG")
    paper, gray = decode((buffer.getvalue(), deep.getvalue()), "q")
    assert paper.getpixel((0, 0)) == (255, 255, 255) and gray.getpixel((0, 0)) == (128, 128, 128)


# ---- orientation and size ------------------------------------------------------------------------

A, B, C, D = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# where the corners A B / C D of what the camera stored stand when it is shown
SHOWN = {
    1: (A, B, C, D),
    2: (B, A, D, C),
    3: (D, C, B, A),
    4: (C, D, A, B),
    5: (A, C, B, D),
    6: (C, A, D, B),
    7: (D, B, C, A),
    8: (B, D, A, C),
}


def stored(orientation, form, mode="RGB", size=(64, 32)):
    """Encoded bytes of four coloured quarters, with an orientation in their tags."""
    w, h = size
    image, exif, buffer = Image.new("RGB", size), Image.Exif(), io.BytesIO()
    for k, colour in enumerate((A, B, C, D)):
        image.paste(
            colour, (k % 2 * w // 2, k // 2 * h // 2, (k % 2 + 1) * w // 2, (k // 2 + 1) * h // 2)
        )
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    image.convert(mode).save(buffer, form, exif=exif, **options)
    return buffer.getvalue()


def corners(image):
    w, h = image.size
    points = (
        (w // 4, h // 4),
        (3 * w // 4, h // 4),
        (w // 4, 3 * h // 4),
        (3 * w // 4, 3 * h // 4),
    )
    return tuple(tuple(round(v / 255) * 255 for v in image.getpixel(p)) for p in points)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_as_every_viewer_shows_them(orientation, form, tmp_path):
    raw = stored(orientation, form)
    file = tmp_path / "phone"
    file.write_bytes(raw)
    size = (32, 64) if orientation > 4 else (64, 32)
    lazy = Image.open(io.BytesIO(raw))
    for image in decode((raw, str(file), lazy), "q"):
        assert image.size == size and corners(image) == SHOWN[orientation]
    assert shown_size(raw, "q") == shown_size(str(file), "q") == size


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_orientation_in_every_mode(mode):
    form = "PNG" if mode in ("P", "RGBA") else "JPEG"
    [image] = decode((stored(6, form, mode),), "q")
    assert image.size == (32, 64) and image.mode == "RGB"


@pytest.mark.parametrize("orientation", [0, 9, 77, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    raw = stored(orientation, "JPEG")
    assert decode((raw,), "q")[0].size == shown_size(raw, "q") == (64, 32)


@pytest.mark.filterwarnings("ignore")  # Pillow's own remarks on them
def test_damaged_tags_are_no_error():
    """Every byte of the tags flipped in turn: the picture opens, one way or the other."""
    raw = stored(6, "JPEG")
    at = raw.index(b"Exif")
    for k in range(at, at + 32):
        broken = bytearray(raw)
        broken[k] ^= 0xFF
        [image] = decode((bytes(broken),), "q")
        assert image.size == shown_size(bytes(broken), "q") and sum(image.size) == 96


def test_size_from_the_header_alone(tmp_path):
    """The pixels are cut off: the size is known, the picture does not open."""
    buffer = io.BytesIO()
    Image.effect_noise((300, 200), 50).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:500])
    assert shown_size(str(tmp_path / "cut.png"), "q") == (300, 200)
    with pytest.raises(BadImage, match="question q: the image .*cut.png does not open"):
        decode((str(tmp_path / "cut.png"),), "q")
    with pytest.raises(BadImage, match="question q: the image .*none.png does not open"):
        shown_size(str(tmp_path / "none.png"), "q")


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 3), (64, 64)])
def test_larger_pictures_are_scaled_down(size):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    [image] = decode((buffer.getvalue(),), "q", 64 * 64)
    assert image.size == shown_size(buffer.getvalue(), "q", 64 * 64) == fitted(size, 64 * 64)
    assert image.width * image.height <= 64 * 64 * 1.1
    assert decode((buffer.getvalue(),), "q")[0].size == size
    assert fit(Image.new("RGB", (10, 10)), 0, 400).size == (20, 20)
