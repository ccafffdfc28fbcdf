"""A JPEG in place of a picture that is too large."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from receiver.handlers import posts


def saved(path: Path, picture: Image.Image) -> Path:
    picture.save(path)
    return path


def test_quality_goes_first_then_size(tmp_path: Path) -> None:
    """As good as the limit allows; a picture with transparency, too."""
    path = saved(tmp_path / "noise.png", Image.effect_noise((1200, 800), 90).convert("RGBA"))
    sizes = []
    for limit in (2_000_000, 450_000):
        data = posts.smaller(path, limit)
        assert data is not None
        assert len(data) <= limit
        sizes.append(Image.open(io.BytesIO(data)).size)
    assert sizes == [(1200, 800), (1024, 683)]


def test_nothing_where_nothing_can_be_done(tmp_path: Path) -> None:
    """No picture, cut short, too many pixels, or a limit that is too low."""
    path = saved(tmp_path / "noise.png", Image.effect_noise((400, 400), 90))
    broken = tmp_path / "broken.png"
    broken.write_bytes(path.read_bytes()[:2000])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    huge = saved(tmp_path / "huge.png", Image.new("1", (9000, 9000)))
    assert posts.smaller(path, 100) is None
    assert [posts.smaller(found, 10_000_000) for found in (broken, text, huge)] == [None, None, None]
