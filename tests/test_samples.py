"""The sample of `receiver destinations test`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from receiver.app.test_delivery import find_destination, try_destination
from receiver.errors import NotDelivered, NotFound, SettingsError
from receiver.events import ALERT_TYPES, EVENT_TYPES, EventType
from receiver.handlers.samples import LABELS, PROMPT, sample_attempt, sample_event, sample_picture
from receiver.settings import Destination, load
from receiver.testing import make_media


def test_the_picture_is_one() -> None:
    """A small PNG that any library opens: a grid of four that differ."""
    data = sample_picture()
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (512, 512), "RGB")
        corners = {picture.getpixel(at) for at in [(4, 4), (508, 4), (4, 300), (508, 300)]}
        assert len(corners) == 4
    assert len(data) < 10_000


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_it_is_marked_as_a_sample(tmp_path: Path, type: EventType) -> None:
    """In its prompt and by a label, whatever it tells; only a result has a picture."""
    event = sample_event(type, 1_732_200_402_250)
    (picture,) = make_media(tmp_path)
    attempt = sample_attempt(event, destination="x", deadline=1.0, picture=picture)
    assert (event.type, event.prompt, event.labels) == (type, "" if type in ALERT_TYPES else PROMPT, LABELS)
    assert PROMPT.startswith("SAMPLE")
    assert (event.reason or "SAMPLE").startswith("SAMPLE")
    assert event.id.startswith(f"{event.submission_id}.{type}")
    assert attempt.media == ((picture,) if type == "task.succeeded" else ())


async def test_the_receipt_is_the_handlers_own(tmp_path: Path) -> None:
    """The real handler, with the picture."""
    receipt = await try_destination(Destination(name="album", url=f"file:{tmp_path}/album"))
    assert receipt.ref is not None
    assert Path(receipt.ref).read_bytes() == sample_picture()


async def test_a_destination_that_wants_tiles_gets_them(tmp_path: Path) -> None:
    """The sample is a grid, and is cut by what cuts every grid: four pictures that differ, beside the whole."""
    item = Destination(name="album", url=f"file:{tmp_path}/album", options={"tiles": True})
    receipt = await try_destination(item)
    assert receipt.ref is not None
    whole = Path(receipt.ref)
    tiles = [whole.with_stem(f"{whole.stem}_u{number}") for number in (1, 2, 3, 4)]
    assert len({tile.read_bytes() for tile in tiles}) == 4
    with Image.open(tiles[0]) as first:
        assert first.size == (256, 256)
    failed = await try_destination(item, "task.failed")
    assert failed.ref is not None


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 65", "album did not take the sample. An event would be dead there: exit status 65: never"),
        ("exit 75", "album did not take the sample. It asks to come again in 60 s: exit status 75: later"),
        ("exit 1", "album did not take the sample. An event would be tried again: exit status 1"),
    ],
)
async def test_the_reason_is_the_handlers_own(script: str, told: str) -> None:
    """And what an engine would make of it."""
    item = Destination(name="album", handler="command", options={"command": ["/bin/sh", "-c", script]})
    with pytest.raises(NotDelivered) as caught:
        await try_destination(item)
    assert str(caught.value) == told


async def test_a_link_to_no_destination_is_refused_as_the_start_would() -> None:
    """In a sentence about the option, in place of waiting for it."""
    options = {"webhook_url": "https://hooks.slack.com/services/T/B/x", "link": "nope"}
    item = Destination(name="team", handler="slack", options=options)
    with pytest.raises(SettingsError, match=r"Destination team: its option link names 'nope', .* are: file"):
        await try_destination(item, others=["team", "file"])


def test_an_unknown_name_is_told_with_those_there_are(tmp_path: Path) -> None:
    """In one sentence."""
    settings = load({"RECEIVER_TO": "file:./a file:./b"}, tmp_path)
    assert find_destination(settings, "file-2").url == "file:./b"
    with pytest.raises(NotFound, match=r"no destination 'album' in the settings\. There are: file, file-2\."):
        find_destination(settings, "album")
