"""Pictures from their recipes: single ones and grids, with captions, previews and cuts.

Raises:
    ImportError: Pillow is not installed.
"""

import io
from collections.abc import Sequence
from functools import lru_cache, singledispatch

from receiver.simulator import prompts, scenes, shots
from receiver.simulator.landscapes import Around
from receiver.simulator.shots import Blended, Extended, Painted, Repainted, Shot, Swapped, Uploaded
from receiver.simulator.window import Window

try:
    from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

    from receiver.simulator import films
    from receiver.simulator.sheet import Sheet
except ImportError as exc:
    raise ImportError("The simulator draws pictures with Pillow: pip install 'imagine-receiver[simulator]'") from exc

_WHITE, _GREY = (255, 255, 255), (210, 214, 222)
Size = tuple[int, int]


@lru_cache(maxsize=32)
def compose(pictures: Sequence[Shot], caption: str = "", note: str = "", enlarged: int = 1) -> bytes:
    """One picture, or four as a grid, as PNG; the same bytes for the same arguments.

    Args:
        pictures: One or four recipes of the same proportions.
        caption: A line at the foot, with the note at its end; nothing is written without one.
        note: What the pictures are.
        enlarged: How many times larger than usual.
    """
    width, height = prompts.picture_size(pictures[0].ratio)
    if len(pictures) == 1:
        picture = _finished(pictures[0], (width, height))
    else:
        picture = Image.new("RGB", (width, height))
        for index, shot in enumerate(pictures):
            corner = (index % 2 * (width // 2), index // 2 * (height // 2))
            picture.paste(_finished(shot, (width // 2, height // 2)), corner)
    if caption:
        _caption(picture, caption, note)
    if enlarged > 1:
        picture = picture.resize((width * enlarged, height * enlarged), Image.Resampling.LANCZOS)
    return _bytes(picture, "PNG")


def _finished(shot: Shot, size: Size) -> Image.Image:
    picture = draw(shot, size)
    if shots.base(shot):
        # Last of all: in the middle of a wider scene darkened corners would show as a frame.
        dark = Image.radial_gradient("L").point(lambda value: max(0, value - 110) ** 2 / 82 * 0.35)
        picture.paste((0, 0, 0), None, dark.resize(size, Image.Resampling.BILINEAR))
    return picture


@singledispatch
def draw(shot: Shot, size: Size) -> Image.Image:
    """A picture of this size from its recipe."""
    raise TypeError(f"There is no way to draw {type(shot).__name__}.")


@draw.register
def _(shot: Painted, size: Size) -> Image.Image:
    sheet = Sheet(*size)
    scenes.paint(sheet, shot.words, shot.seed, shot.index, take=shot.take, tone=shot.tone)
    return sheet.finished()


@draw.register
def _(shot: Uploaded, size: Size) -> Image.Image:
    try:
        picture = _opened(shot.content)
    except (OSError, ValueError, Image.DecompressionBombError):
        # It began like a picture and was none after all; the provider would not have said so either.
        return Image.new("RGB", size, _GREY)
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


@draw.register
def _(shot: Extended, size: Size) -> Image.Image:
    width, height = size
    inner = (round(width / (1 + shot.left + shot.right)), round(height / (1 + shot.top + shot.bottom)))
    corner = (round(shot.left * inner[0]), round(shot.top * inner[1]))
    picture = draw(shot.inner, inner)
    around = _surroundings(shot, size) or _mirrored(picture, size, corner)
    around.paste(picture, corner, _feather(shot, inner))
    return around


def _surroundings(shot: Extended, size: Size) -> Image.Image | None:
    """The same scene, wider: its horizon and its sun stand where the inner picture has them."""
    scene, frame = shots.base(shot), shots.frame(shot)
    if scene is None:
        return None
    sheet = Sheet(*size)
    window = Window(sheet, frame.top, frame.height)
    around = Around(frame.left / frame.height, scene.ratio, shot.take)
    scenes.paint(window, scene.words, scene.seed, scene.index, take=scene.take, tone=scene.tone, around=around)
    return sheet.finished()


def _mirrored(picture: Image.Image, size: Size, corner: tuple[int, int]) -> Image.Image:
    """What no words describe is carried on as its mirror image, out of focus."""
    width, height = picture.size
    turned = {
        (0, 0): picture,
        (1, 0): ImageOps.mirror(picture),
        (0, 1): ImageOps.flip(picture),
        (1, 1): ImageOps.flip(ImageOps.mirror(picture)),
    }
    around = Image.new("RGB", size)
    for across in (-1, 0, 1):
        for down in (-1, 0, 1):
            where = (corner[0] + across * width, corner[1] + down * height)
            around.paste(turned[abs(across), abs(down)], where)
    return around.filter(ImageFilter.GaussianBlur(size[0] / 50))


def _feather(shot: Extended, inner: Size) -> Image.Image:
    """White inside, fading out towards the sides that were added."""
    edge = round(min(inner) * 0.09)
    mask = Image.new("L", inner)
    left, top = (edge if shot.left else 0), (edge if shot.top else 0)
    right, bottom = inner[0] - (edge if shot.right else 0), inner[1] - (edge if shot.bottom else 0)
    ImageDraw.Draw(mask).rectangle((left, top, right, bottom), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(edge / 2.5))


@draw.register
def _(shot: Repainted, size: Size) -> Image.Image:
    old, new = draw(shot.inner, size), draw(shot.new, size)
    if shot.mask is None:
        return Image.blend(old, new, 0.6)
    try:
        mask = Image.open(io.BytesIO(shot.mask)).convert("L").resize(size)
    except (OSError, ValueError, Image.DecompressionBombError):
        return new
    return Image.composite(new, old, mask.filter(ImageFilter.GaussianBlur(size[1] / 100)))


@draw.register
def _(shot: Blended, size: Size) -> Image.Image:
    order = [*shot.parts[shot.lead % len(shot.parts) :], *shot.parts[: shot.lead % len(shot.parts)]]
    picture, share = draw(order[0], size), 0.9 - 0.25 * (shot.lead // len(shot.parts))
    for number, part in enumerate(order[1:], 2):
        picture = Image.blend(picture, draw(part, size), share / number)
    return picture


@draw.register
def _(shot: Swapped, size: Size) -> Image.Image:
    picture, (width, height) = draw(shot.target, size), size
    box = (width // 3, height // 5, width * 2 // 3, height * 3 // 5)
    face = (box[2] - box[0], box[3] - box[1])
    mask = Image.new("L", face)
    ImageDraw.Draw(mask).ellipse((4, 4, face[0] - 4, face[1] - 4), fill=255)
    picture.paste(draw(shot.face, face), box[:2], mask.filter(ImageFilter.GaussianBlur(6)))
    return picture


def _caption(picture: Image.Image, prompt: str, seed: str) -> None:
    width, height = picture.size
    font, edge, line = ImageFont.load_default(size=22), 18, 28
    lines = _wrapped(prompt, font, width - 2 * edge)
    beside = width - 2 * edge - font.getlength(seed)
    if len(lines) > 1 or font.getlength(lines[0]) > beside - 2 * edge:
        lines.append(seed)
        beside = 0
    top = height - line * len(lines) - edge // 2
    _shade(picture, top - 36)
    draw = ImageDraw.Draw(picture)
    for number, text in enumerate(lines):
        draw.text((edge, top + number * line), text, font=font, fill=_GREY if text == seed else _WHITE)
    if beside:
        draw.text((edge + beside, top), seed, font=font, fill=_GREY)


def _shade(picture: Image.Image, top: int) -> None:
    """Darken towards the bottom: letters must be legible on snow, and the scene seen through."""
    rows = picture.height - top
    column = Image.new("L", (1, rows))
    column.putdata([min(165, row * 5) for row in range(rows)])
    picture.paste((8, 10, 18), (0, top, picture.width, picture.height), column.resize((picture.width, rows)))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """At most two lines; what does not fit ends in an ellipsis."""
    lines, rest = [], " ".join(text.split())
    for last in (False, True):
        if not rest:
            break
        fits = _fitting(rest, font, width)
        if last and fits < len(rest):
            lines.append(rest[: max(0, fits - 1)].rstrip() + "…")
            break
        cut = rest.rfind(" ", 0, fits + 1) if fits < len(rest) else fits
        cut = cut if cut > 0 else fits
        lines.append(rest[:cut])
        rest = rest[cut:].lstrip()
    return lines or [""]


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> int:
    length = min(len(text), 400)
    while length > 1 and font.getlength(text[:length]) > width:
        length -= 1
    return length


def preview(png: bytes, percent: int) -> bytes:
    """Half as large, in coarse squares that become finer with the progress, as WebP."""
    picture = _opened(png)
    half = (picture.width // 2, picture.height // 2)
    coarse = max(1, round(28 * (1 - percent / 100)))
    small = picture.resize((max(1, half[0] // coarse), max(1, half[1] // coarse)), Image.Resampling.BOX)
    return _bytes(small.resize(half, Image.Resampling.NEAREST), "WEBP")


def filmed(shot: Shot, motion: str) -> bytes:
    """A video that starts from a picture, as MP4."""
    width, height = prompts.picture_size(shot.ratio)
    return films.film(draw(shot, (width // 2, height // 2)), motion)


def tile(png: bytes, index: int, count: int, *, small: bool) -> bytes:
    """One of four pictures, as one reads, or the only one; as PNG, or 640 pixels wide at most as WebP."""
    picture = _opened(png)
    across = 2 if count > 1 else 1
    width, height = picture.width // across, picture.height // across
    left, top = index % across * width, index // across * height
    cut = picture.crop((left, top, left + width, top + height))
    if not small:
        return _bytes(cut, "PNG")
    cut.thumbnail((640, 640))
    return _bytes(cut, "WEBP")


def resized(png: bytes, width: int) -> bytes:
    """The picture no wider than this."""
    picture = _opened(png)
    picture.thumbnail((width, picture.height))
    return _bytes(picture, "PNG")


def _opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def _bytes(picture: Image.Image, kind: str) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind)
    return target.getvalue()
