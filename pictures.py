"""Pictures as a model sees them: upright, on white paper, within the limits of size.

    images = decode(question.images, question.id)                 # PIL images in RGB
    width, height = shown_size(question.images[0])                # from the header, not decoded

A picture is a path, a data URI, encoded bytes or a PIL image. Training, evaluation and the corpus
builder open all of theirs here, so that they see the same.
"""

import base64
import binascii
import io
import math
import os
import warnings
from pathlib import Path

from PIL import Image

# Pillow knows stranger ones, some of which call programs
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # Pillow's own default limit: 256 MB decoded
MAX_BYTES = 50_000_000  # of one file
# EXIF orientation: what a camera that was turned wrote, and how every viewer turns it back
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# the same limit is an error here; damaged tags are as good as none
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")


class BadImage(ValueError):
    """A picture that is not there, does not open or is unreasonably large."""

    def __init__(self, where, detail):
        super().__init__(f"question {where}: {detail}")
        self.detail = detail


def decode(images, where, max_pixels=0):
    """The pictures of a Question as RGB images. where: what the error names, the question's id.

    Turned as their EXIF orientation says; transparent pixels become white. max_pixels: larger ones
    are scaled down to it, 0: as they are. Raises BadImage naming question and file.
    """
    return tuple(decode_image(image, where, max_pixels) for image in images)


def decode_image(image, where, max_pixels=0):
    """One of them."""
    return _attempt(image, where, lambda i: _shown(i, max_pixels))


def shown_size(image, where, max_pixels=0):
    """(width, height) of what decode() returns, from the header alone. Raises BadImage."""
    return _attempt(image, where, lambda i: fitted(_upright_size(i), max_pixels))


def _attempt(image, where, look):
    if isinstance(image, Image.Image):
        return look(image)
    try:
        with Image.open(_source(image), formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:  # from the header: nothing is decoded yet
                size = f"{opened.width} x {opened.height}"
                raise ValueError(f"{size} pixels; at most {MAX_PIXELS} in all")
            return look(opened)
    except Exception as e:  # Pillow's decoders raise whatever comes on damaged files
        name = image
        if isinstance(image, bytes):
            name = f"{len(image)} bytes"
        elif image.startswith("data:"):
            name = image[:40] + "..."
        raise BadImage(where, f"the image {name} does not open ({e})") from e


def raw_bytes(image):
    """The encoded bytes of a path, a data URI or bytes. Raises ValueError or OSError."""
    source = _source(image)
    return Path(source).read_bytes() if isinstance(source, str) else source.getvalue()


def _source(image):
    # What Pillow opens: of a file it then reads the header only.
    if isinstance(image, str) and image.startswith("data:"):
        head, _, body = image.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data URI must be base64")
        try:
            image = base64.b64decode(body, validate=True)
        except binascii.Error as e:
            raise ValueError(f"not base64: {e}") from None
    size = len(image) if isinstance(image, bytes) else os.path.getsize(image)
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes; at most {MAX_BYTES}")
    return io.BytesIO(image) if isinstance(image, bytes) else image


def fitted(size, most, least=0):
    """(width, height) scaled so that the pixels lie between least and most (0: any number)."""
    pixels = size[0] * size[1]
    if least <= pixels and (not most or pixels <= most):
        return size
    scale = math.sqrt((least if pixels < least else most) / pixels)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fit(image, most, least=0):
    """The image scaled to fitted(), its shape kept."""
    size = fitted(image.size, most, least)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def _shown(image, max_pixels):
    image.load()  # what is damaged shows here, and some formats have their tags at the end
    return fit(_rgb(_upright(image)), max_pixels)


def _orientation(image):
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged tags: viewers show such a picture as it is stored, and so do we
        return 1


def _upright(image):
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _upright_size(image):
    # Of a PNG without tags before its pixels Pillow would decode all to look behind them; a TIFF
    # is turned by Pillow itself.
    known = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    if known and _orientation(image) in (5, 6, 7, 8):
        return image.height, image.width
    return image.size


def _rgb(image):
    # transparent first: else black lines on nothing turn black on black
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I;16"):  # Pillow clips these at 255 instead of scaling
        return image.convert("I").point(lambda v: v * (1 / 256)).convert("L").convert("RGB")
    return image.convert("RGB")
