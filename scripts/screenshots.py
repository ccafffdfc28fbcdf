"""One picture of the page for README and handbook: a real Receiver with a simulated provider, in Chromium.

usage: .venv/bin/python scripts/screenshots.py [FILE]

The picture shows the first page, light, a picture, dark, and all pictures on a phone.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from browsers import browser, tab  # noqa: E402 - of the tests
from playwright.sync_api import Browser, Page, expect  # noqa: E402
from servers import receiver, serving_receiver, simulating  # noqa: E402

PROMPTS = (
    "a lighthouse in a storm, waves breaking over the rocks --ar 3:2",
    "botanical illustration of a fern, watercolour on cream paper",
    "a city at night, seen from a hill --ar 16:9 --stylize 250",
    "portrait of an old fisherman, window light",
    "a red fox in the snow",
    "mountains at dawn above a sea of clouds --ar 3:2",
    "still life with three pears and a blue jug",
    "a paper boat on calm water at sunrise --v 6.1",
)
UNDER_WAY = "a hot-air balloon over a lavender field"
WIDE = 860, 538
"""Size in the picture of a window of 1440 × 900."""
PHONE = 424
"""Width in the picture of a phone of 390."""
GAP = 16


@contextmanager
def site(folder: Path) -> Iterator[tuple[str, str]]:
    """Run both servers with some pictures, a destination that fails, and a task under way. Yield URL and login."""
    with simulating(folder, speed=30) as fast, simulating(folder, speed=0.5) as slow:
        env = {
            "RECEIVER_PROVIDER_URL": fast,
            "COMETAPI_KEY": "simulator",
            "RECEIVER_TO": "file:./album",
            "RECEIVER_DESTINATIONS__STUDIO__HANDLER": "command",
            "RECEIVER_DESTINATIONS__STUDIO__COMMAND": '["sh", "-c", "echo shelf 3"]',
            "RECEIVER_DESTINATIONS__SHOP__HANDLER": "command",
            "RECEIVER_DESTINATIONS__SHOP__COMMAND": '["sh", "-c", "echo The shop is closed. >&2; exit 1"]',
            "RECEIVER_MEDIA_HOSTS": fast,
            "RECEIVER_POLL_INTERVAL": "0.5",
        }
        with serving_receiver(folder, env):
            for prompt in PROMPTS:
                last = receiver("submit", prompt, "--label", "project=calendar", "--wait", folder=folder, env=env)
            id = re.search("[0-9A-Z]{26}", last.out + last.err)
            assert id is not None, last
            receiver("action", id[0], "U2", "--wait", folder=folder, env=env)
            receiver("action", id[0], "V3", "--wait", folder=folder, env=env)
        # Under way for as long as the screenshots take.
        with serving_receiver(folder, env | {"RECEIVER_PROVIDER_URL": slow}) as (command, url):
            login = re.search(r"http\S+/login\?key=\S+", command.out.line("/login?key="))
            assert login is not None
            receiver("submit", UNDER_WAY, folder=folder, env=env | {"RECEIVER_PROVIDER_URL": slow})
            yield url, login[0]


def shot(page: Page, size: tuple[int, int]) -> Image.Image:
    """Return what is in view, once all pictures are there."""
    page.evaluate("Promise.all([...document.images].map((item) => item.decode().catch(() => null)))")
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    return picture.resize(size, Image.Resampling.LANCZOS)


def take(opened: Browser, url: str, login: str) -> Image.Image:
    """Return the picture."""
    height = 2 * WIDE[1] + GAP
    whole = Image.new("RGB", (WIDE[0] + GAP + PHONE, height), "white")
    with tab(opened, color_scheme="light") as page:
        page.goto(login)
        expect(page.locator(".busy progress:not([value='0'])")).to_be_visible()
        whole.paste(shot(page, WIDE), (0, 0))
        page.set_viewport_size({"width": 390, "height": round(390 * height / PHONE)})
        page.goto(f"{url}/pictures")
        whole.paste(shot(page, (PHONE, height)), (WIDE[0] + GAP, 0))
    with tab(opened, color_scheme="dark") as page:
        page.goto(login)
        page.goto(f"{url}/pictures?search=paper+boat")
        page.get_by_role("link", name="a paper boat").last.click()
        expect(page.locator("#box .quads img")).to_be_visible()
        page.locator("#box .q2").hover()
        whole.paste(shot(page, WIDE), (0, WIDE[1] + GAP))
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "receiver" / "handbook" / "page.webp")
    target = parser.parse_args().file
    with (
        tempfile.TemporaryDirectory(prefix="receiver-screenshots-") as data,
        site(Path(data)) as (url, login),
        browser() as opened,
    ):
        take(opened, url, login).save(target, quality=80, method=6)
    print(f"{target}: {target.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
