"""The page in a real browser: a prompt becomes a picture, a button costs once, a dead letter is replayed, and a
stranger is refused; with the mouse, by keyboard alone, and without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import browser, tab
from playwright.sync_api import Browser, Page, expect
from servers import serving_receiver, simulating

from receiver.handlers.command import NEVER

pytestmark = pytest.mark.debian

VIEWER = "ann" * 8
PASTE = """async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 90, height: 60 });
    canvas.getContext("2d").fillRect(0, 0, 90, 60);
    const png = await new Promise((done) => canvas.toBlob(done));
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([png], "a.png", { type: "image/png" }));
    dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
}"""
"""What a browser does when somebody pastes a picture."""


@dataclass(frozen=True, slots=True)
class Site:
    """A running Receiver with a page."""

    browser: Browser
    url: str
    login: str
    gate: Path
    """The destination `gate` refuses until this file exists."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    gate = folder / "open"
    with simulating(folder, speed=30) as provider:
        env = {
            "RECEIVER_PROVIDER_URL": provider,
            "COMETAPI_KEY": "simulator",
            "RECEIVER_TO": "file:./album",
            "RECEIVER_DESTINATIONS__GATE__HANDLER": "command",
            "RECEIVER_DESTINATIONS__GATE__COMMAND": f'["sh", "-c", "test -e {gate} || exit {NEVER}"]',
            "RECEIVER_MEDIA_HOSTS": provider,
            "RECEIVER_POLL_INTERVAL": "0.5",
            "RECEIVER_PAGE_USERS": f"ann:viewer:{VIEWER}",
        }
        with serving_receiver(folder, env) as (command, url), browser() as opened:
            login = re.search(r"http\S+/login\?key=\S+", command.out.line("/login?key="))
            assert login is not None
            yield Site(opened, url, login[0], gate)


def log_in(site: Site, page: Page) -> None:
    page.goto(site.login)
    expect(page).to_have_url(f"{site.url}/")


def make(site: Site, page: Page, prompt: str) -> str:
    """Type a prompt, and wait for its picture. Return its address."""
    page.goto(f"{site.url}/make")
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Make it").click()
    expect(page).to_have_url(re.compile("/pictures/[0-9A-Z]{26}$"))
    return page.url


def test_a_prompt_becomes_a_picture_without_reload(site: Site) -> None:
    with tab(site.browser) as page:
        log_in(site, page)
        address = make(site, page, "a paper boat on calm water --ar 3:2")
        page.evaluate("window.stayed = true")
        expect(page.locator(".quads img")).to_be_visible()
        expect(page.locator(".stage")).not_to_contain_text("under way")
        assert page.evaluate("window.stayed") is True
        assert page.evaluate("document.querySelector('.quads img').complete")
        page.goto(f"{site.url}/pictures")
        expect(page.get_by_role("link", name="a paper boat").first).to_be_visible()
        assert address.startswith(site.url)


def test_a_button_in_two_tabs_costs_once(site: Site) -> None:
    with tab(site.browser) as one:
        log_in(site, one)
        address = make(site, one, "a red fox in the snow")
        expect(one.locator(".quads img")).to_be_visible()
        two = one.context.new_page()
        two.goto(address)
        made = set()
        for page in (one, two):
            page.locator(".q2").hover()
            page.get_by_role("button", name="Upscale picture 2").click()
            page.wait_for_url(lambda url: url != address)
            made.add(page.url)
        assert len(made) == 1
        expect(two.locator(".stage img")).to_be_visible()


def test_a_picture_opens_above_the_grid_and_back_closes_it(site: Site) -> None:
    with tab(site.browser) as page:
        log_in(site, page)
        make(site, page, "a lighthouse in a storm")
        expect(page.locator(".quads img")).to_be_visible()
        page.goto(f"{site.url}/pictures")
        page.locator(".tile > a").first.click()
        box = page.get_by_role("dialog", name="Picture")
        expect(box.get_by_text("a lighthouse in a storm")).to_be_visible()
        expect(page).to_have_url(re.compile("/pictures/[0-9A-Z]{26}$"))
        page.go_back()
        expect(box).to_be_hidden()
        expect(page).to_have_url(f"{site.url}/pictures")


def test_a_delivery_that_failed_is_replayed_after_a_preview(site: Site) -> None:
    with tab(site.browser) as page:
        log_in(site, page)
        make(site, page, "a city at night")
        expect(page.locator(".quads img")).to_be_visible()
        page.goto(f"{site.url}/deliveries?destination=gate&status=dead")
        failed = page.locator("tr[data-row]", has_text=f"exit status {NEVER}").first
        failed.get_by_role("checkbox").check()
        site.gate.touch()
        page.get_by_role("button", name="Replay selected").click()
        expect(page.get_by_role("heading", name="Replay 1 of 1?")).to_be_visible()
        page.get_by_role("button", name="Replay", exact=True).click()
        expect(page).to_have_url(re.compile("/deliveries"))
        page.goto(f"{site.url}/deliveries?destination=gate&status=succeeded")
        expect(page.locator("tbody tr[data-row]").first).to_be_visible()


def test_a_region_is_drawn_and_a_picture_is_pasted(site: Site) -> None:
    with tab(site.browser) as page:
        log_in(site, page)
        make(site, page, "a red boat")
        page.locator(".q1").hover()
        page.get_by_role("button", name="Upscale picture 1").click()
        page.get_by_text("Vary a region").click()
        canvas = page.get_by_label("Draw the region")
        expect(canvas).not_to_have_js_property("width", 300)  # of a canvas without its picture
        canvas.scroll_into_view_if_needed()
        frame = canvas.bounding_box()
        assert frame is not None
        page.mouse.move(frame["x"] + frame["width"] / 4, frame["y"] + 20)
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + 20)
        page.mouse.up()
        zoom = page.get_by_role("button", name="Zoom Out 2x").get_attribute("value") or ""
        pressed = page.request.post(
            page.url.replace("/pictures/", "/tasks/") + "/press", form={"button": zoom}, headers={"Origin": site.url}
        )
        assert pressed.ok
        expect(page.locator(".lines li", has_text="Zoom Out 2x")).to_be_visible()  # the page changes, the drawing stays
        expect(page.locator("[data-mask-out]")).to_have_value(re.compile("^data:image/png;base64,"))
        page.get_by_role("button", name="Vary the region").click()
        expect(page.locator("dd", has_text="Vary (Region)")).to_be_visible()
        expect(page.locator(".stage img")).to_be_visible()
        page.goto(f"{site.url}/make?kind=describe")
        page.evaluate(PASTE)
        expect(page.locator(".previews img")).to_be_visible()
        page.get_by_role("button", name="Make it").click()
        expect(page.locator(".texts li").first).to_be_visible()


def test_a_stranger_is_refused_and_a_viewer_spends_nothing(site: Site) -> None:
    with tab(site.browser) as page:
        page.goto(f"{site.url}/pictures")
        expect(page).to_have_url(re.compile("/login"))
        page.get_by_label("Your key").fill(VIEWER)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Pictures")).to_be_visible()
        expect(page.get_by_role("link", name="Make")).to_have_count(0)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Your key")).to_be_visible()


def test_everything_works_without_javascript(site: Site) -> None:
    with tab(site.browser, java_script_enabled=False) as page:
        log_in(site, page)
        address = make(site, page, "botanical illustration of a fern")
        while page.locator(".quads img").count() == 0:
            page.reload()
        page.locator(".q3").hover()
        page.get_by_role("button", name="Vary picture 3").click()
        page.wait_for_url(lambda url: url != address)
        page.goto(f"{site.url}/pictures?search=fern")
        page.get_by_label("Select").first.check(force=True)
        page.get_by_role("button", name="Erase").click()
        expect(page.get_by_role("heading", name="Erase 1 task?")).to_be_visible()
        page.get_by_role("link", name="Keep").click()
        expect(page.get_by_role("heading", name="Pictures")).to_be_visible()


def test_everything_works_by_keyboard(site: Site) -> None:
    with tab(site.browser) as page:
        log_in(site, page)
        page.keyboard.press("g")
        page.keyboard.press("m")
        expect(page.get_by_label("Prompt")).to_be_focused()
        page.keyboard.type("a portrait of an old fisherman")
        page.get_by_role("button", name="Make it").focus()
        page.keyboard.press("Enter")
        expect(page.locator(".quads img")).to_be_visible()
        page.goto(f"{site.url}/pictures")
        page.keyboard.press("j")
        page.keyboard.press("x")
        expect(page.locator(".chosen-count")).to_have_text("1 selected")
        page.keyboard.press("Enter")
        box = page.get_by_role("dialog", name="Picture")
        expect(box.get_by_text("a portrait of an old fisherman")).to_be_visible()
        page.keyboard.press("Escape")
        expect(box).to_be_hidden()
        page.keyboard.press("Enter")
        expect(box.locator(".quads img")).to_be_visible()
        page.keyboard.press("Shift+Digit2")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator("dd", has_text="action · V2")).to_be_visible()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_and_contrast_are_good(site: Site, scheme: str) -> None:
    """By axe-core, on every page and a phone."""
    with tab(site.browser, color_scheme=scheme) as page:
        log_in(site, page)
        address = make(site, page, f"a boat in {scheme}")
        expect(page.locator(".quads img")).to_be_visible()
        pages = ("/", "/pictures", address.removeprefix(site.url), "/make", "/tasks", "/deliveries", "/destinations")
        for path in (*pages, address.removeprefix(site.url).replace("pictures", "tasks"), "/system", "/help/page"):
            page.goto(site.url + path)
            for width in (1440, 390):
                page.set_viewport_size({"width": width, "height": 844})
                found = Axe().run(page)
                assert found.violations_count == 0, f"{path} at {width}: {found.generate_report()}"
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                    f"{path} at {width} is wider"
                )
