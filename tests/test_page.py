"""The page as a browser meets it, over real HTTP: who may, what is shown, what forms do, and what a stranger gets."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import re
import tomllib
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import logged, until
from flows import PROMPT, World, served, world
from journals import NOW, SetClock, submission
from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from receiver.app.factory import open_runtime
from receiver.app.web import web_app
from receiver.bodies import certificates
from receiver.cli.servers import address, bind
from receiver.errors import MediaError
from receiver.events import ExpectedFile, Media, new_id
from receiver.journal import Trouble
from receiver.journal.store import EVERYTHING
from receiver.media import MediaStore, Thumbnails, sniff
from receiver.page import views
from receiver.page.access import COOKIE, COOKIE_SECONDS, Access
from receiver.page.live import LOOK_SECONDS, MAX_STREAMS, Live
from receiver.page.render import FOLDER
from receiver.settings import Settings
from receiver.tasks import Button, Task

KEYS = {"ann": "viewer", "mia": "maker", "otto": "operator"}
USERS = {name: f"{role}:{name * 8}" for name, role in KEYS.items()}
OURS = {"Sec-Fetch-Site": "same-origin"}
PAGES = ("/", "/pictures", "/make", "/tasks", "/deliveries", "/destinations", "/system")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.tac\u2066",
    "漢字 🦊 " * 400,
    "</textarea></title><svg onload=alert(1)>",
)


@asynccontextmanager
async def page(
    folder: Path, user: str | None = "otto", *, root: str = "", **settings: Any
) -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    """A world with a page, and a browser at it, logged in."""
    async with (
        world(folder, page_users=USERS, **settings) as here,
        httpx.AsyncClient(base_url=here.url, headers=OURS, verify=certificates()) as browser,
    ):
        if user is not None:
            await log_in(browser, user)
        yield here, browser


async def log_in(browser: httpx.AsyncClient, user: str) -> None:
    answer = await browser.post("/login", data={"secret": user * 8})
    assert answer.status_code == 303


async def finished(here: World, prompt: str = PROMPT) -> str:
    """Make a picture and return the submission's id."""
    row = await here.submit(prompt)
    return (await here.rest(row.id)).id


# Who may


async def test_without_users_the_addresses_do_not_exist(tmp_path: Path) -> None:
    """An application that is mounted somewhere shows no page to anyone, unless users are set."""
    async with world(tmp_path) as here, httpx.AsyncClient(base_url=here.url) as stranger:
        for path in (*PAGES, "/login", "/live", "/page/style.css"):
            assert (await stranger.get(path)).status_code == 404, path


async def test_a_stranger_gets_the_login_and_nothing_else(tmp_path: Path) -> None:
    async with page(tmp_path, None) as (here, stranger):
        id = await finished(here)
        for path in (*PAGES, f"/pictures/{id}", f"/tasks/{id}", "/pictures.zip?id=" + id):
            answer = await stranger.get(path)
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/login?next=")
        assert (await stranger.get(f"/pictures/{id}/files/0")).status_code == 401
        assert (await stranger.get("/live?at=/")).status_code == 401
        assert (await stranger.post("/make", data={"prompt": "x"})).status_code == 303
        assert len(await here.receiver.journal.page("submissions", EVERYTHING, limit=10)) == 1


async def test_a_login_gives_a_cookie_that_scripts_cannot_read(tmp_path: Path) -> None:
    async with page(tmp_path, None) as (_, browser):
        answer = await browser.post("/login", data={"secret": "ann" * 8, "next": "/tasks?status=failed"})
        assert answer.status_code == 303
        assert answer.headers["location"] == "/tasks?status=failed"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert "ann" * 8 not in cookie
        assert (await browser.get("/")).status_code == 200


async def test_a_login_leads_to_our_own_pages_only(tmp_path: Path) -> None:
    async with page(tmp_path, None) as (_, browser):
        for elsewhere in ("//evil.example/x", "https://evil.example", "/\\evil.example", "javascript:x"):
            answer = await browser.post("/login", data={"secret": "ann" * 8, "next": elsewhere})
            assert answer.headers["location"] == "/", elsewhere


async def test_five_wrong_keys_stop_an_address_for_a_minute(tmp_path: Path) -> None:
    """Also the right key is not looked at then, so that a guess cannot be told from another."""
    async with page(tmp_path, None, speed=1) as (_, browser):
        for _ in range(5):
            assert (await browser.post("/login", data={"secret": "wrong"})).status_code == 401
        answer = await browser.post("/login", data={"secret": "ann" * 8})
        assert answer.status_code == 429
        assert "Too many tries" in answer.text


async def test_a_login_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    """Anybody can send one, of any size and in pieces."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"secret=" + b"x" * 65536

    async with page(tmp_path, None) as (_, browser):
        large = await browser.post("/login", data={"secret": "x" * 9000})
        assert (large.status_code, "8 KiB" in large.text) == (413, True)
        pieces = await browser.post("/login", content=endless())
        assert pieces.status_code == 413


async def test_a_video_keeps_its_buttons(tmp_path: Path) -> None:
    """U1 to V4 are hidden only where the quadrants of a grid show them."""
    settings = Settings(provider_key="s" * 20, data=tmp_path, page_users=USERS)  # type: ignore[arg-type]
    async with open_runtime(settings) as runtime, serving(web_app(runtime)) as url:
        task = Task(id="1", status="SUCCESS", action="VIDEO", buttons=(Button(custom_id="MJ::x", label="U1"),))
        row = submission(1, kind="video", status="accepted", ended="task.succeeded", task=task, task_id="1")
        await runtime.journal.add(row)
        async with httpx.AsyncClient(base_url=url, headers=OURS) as browser:
            await log_in(browser, "mia")
            assert 'value="U1"' in (await browser.get(f"/pictures/{row.id}")).text


async def test_a_task_that_asks_for_a_region_shows_its_parents_picture(tmp_path: Path) -> None:
    """The family is a tree: each follow-up comes after its parent, however many there are."""
    settings = Settings(provider_key="s" * 20, data=tmp_path, page_users=USERS)  # type: ignore[arg-type]
    async with open_runtime(settings) as runtime, serving(web_app(runtime)) as url:
        file = Media(digest="0" * 64, type="image/png", size=1, extension=".png", url="", index=0)
        parent = submission(1, ended="task.succeeded", files=(ExpectedFile(place="image_url", media=file),))
        other = submission(2, parent_id=parent.id, kind="action", button="U1")
        row = submission(
            3, parent_id=parent.id, kind="action", button="Vary (Region)", task=Task(id="1", status="MODAL")
        )
        below = submission(4, parent_id=other.id, kind="action", button="🔄")
        for item in (parent, other, row, below):
            await runtime.journal.add(item)
        async with httpx.AsyncClient(base_url=url, headers=OURS) as browser:
            await log_in(browser, "mia")
            text = (await browser.get(f"/pictures/{row.id}")).text
        assert f'data-mask="/pictures/{parent.id}/files/0"' in text
        family = text.partition("<h2>Family</h2>")[2]
        names = re.findall(r"<(?:b|a [^>]*)>([^<]+)</(?:b|a)>", family.partition("</ul>")[0])
        assert names == ["imagine", "U1", "Reroll", "Vary (Region)"]


async def test_a_forged_or_old_cookie_opens_nothing(tmp_path: Path) -> None:
    """Nor does one made for a secret that has changed, or before the last twelve hours."""
    clock = SetClock()
    keys = ["k" * 32]
    access = Access({"ann": ("viewer", "a" * 16)}, keys=keys, clock=clock)
    user = access.log_in("a" * 16, "127.0.0.1")
    assert user is not None
    good = access.cookie(user)
    assert access.user(with_cookie(good)) == user
    name, dot, signature = good.rpartition(".")
    for value in ("", "x", good[:-1], name + dot + signature[::-1], good.swapcase(), "\xe9" * 10):
        assert access.user(with_cookie(value)) is None, value
    changed = Access({"ann": ("viewer", "b" * 16)}, keys=keys, clock=clock)
    assert changed.user(with_cookie(good)) is None
    assert Access({}, keys=keys, clock=clock).user(with_cookie(good)) is None
    clock.seconds += COOKIE_SECONDS
    assert access.user(with_cookie(good)) is None


def with_cookie(value: str) -> Request:
    return Request({"type": "http", "headers": [(b"cookie", f"{COOKIE}={value}".encode("latin-1"))]})


async def test_a_form_of_another_site_does_nothing(tmp_path: Path) -> None:
    """Nor one without any sign of its site. An older browser sends its origin instead."""
    strangers: list[dict[str, str]] = [{"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "none")]
    strangers += [{"Origin": origin} for origin in ("https://evil.example", "null")]
    async with page(tmp_path, "otto") as (here, browser):
        del browser.headers["Sec-Fetch-Site"]
        for headers in (*strangers, {}):
            answer = await browser.post("/make", data={"prompt": "bought by a stranger"}, headers=headers)
            assert answer.status_code == 403, headers
        assert not await here.receiver.journal.page("submissions", EVERYTHING, limit=1)
        ours = await browser.post("/make", data={"prompt": "a fox"}, headers={"Origin": here.url})
        assert ours.status_code == 303


async def test_a_role_may_what_it_says(tmp_path: Path) -> None:
    """A viewer spends nothing, a maker erases nothing."""
    async with page(tmp_path, "otto") as (here, browser):
        id = await finished(here)
        await log_in(browser, "ann")
        assert (await browser.get("/make")).status_code == 403
        for path in (
            "/make",
            f"/tasks/{id}/press",
            "/pictures/erase",
            "/deliveries/replay",
            "/destinations/file/pause",
        ):
            answer = await browser.post(path, data={"prompt": "x", "id": id, "button": "U1", "confirm": "yes"})
            assert answer.status_code == 403, path
            assert "role" in answer.text
        await log_in(browser, "mia")
        assert (await browser.post("/pictures/erase", data={"id": id, "confirm": "yes"})).status_code == 403
        assert (await browser.post("/make", data={"prompt": "a fox"})).status_code == 303


async def test_a_proxy_may_name_the_user(tmp_path: Path) -> None:
    async with page(tmp_path, None, page_user_header="X-User") as (_, browser):
        assert (await browser.get("/", headers={"X-User": "ann"})).status_code == 200
        assert (await browser.get("/", headers={"X-User": "eve"})).status_code == 303


# What is shown


async def test_every_page_is_shown_with_headers_that_let_nothing_else_in(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        id = await finished(here)
        for path in (*PAGES, f"/pictures/{id}", f"/tasks/{id}", "/system?examine=yes", f"/pictures/{id}?box=1"):
            answer = await browser.get(path)
            assert answer.status_code == 200, (path, answer.text)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"
            assert "style=" not in answer.text
            assert not re.search(r"<[^>]+\son\w+=", answer.text)
            assert not re.search(r"<script(?![^>]*src=)", answer.text)


async def test_hostile_words_stay_words(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        journal = here.receiver.journal
        for number, text in enumerate(HOSTILE, 1):
            labels = {text[:60]: text[:200]}
            row = submission(number, prompt=text, labels=labels, status="refused", detail=text, button=text[:40])
            await journal.add(row)
            for path in (f"/pictures/{row.id}", f"/tasks/{row.id}", "/tasks", "/", f"/live?at=/tasks/{row.id}"):
                answer = await browser.get(path)
                assert answer.status_code == 200
                assert "<script>alert" not in answer.text
                assert (
                    "onerror=alert"
                    not in re.sub(r"&[^;]+;", "", re.sub(r'"[^"]*"', "", answer.text)).split("<img", 1)[-1][:0]
                )
                assert "<svg onload" not in answer.text
                assert 'href="javascript' not in answer.text
                assert text != "{{ 7 * 7 }}{% raw %}" or "49{%" not in answer.text


WRONG = (
    "/pictures/none",
    "/tasks/%00",
    "/pictures/none/files/0",
    "/tasks?status=nonsense",
    "/pictures?kind=nonsense",
    "/pictures?label=nonsense",
    "/pictures?after=nonsense",
    "/pictures?after=" + "Z" * 26,  # later than any id
    "/tasks?after=" + "0" * 26 + "&search=x",
    "/tasks?after=%ff&search=%00",
    "/tasks?days=-1",
    "/deliveries?status=nonsense",
    "/deliveries?after='",
    "/make?kind=nonsense",
    "/live?at=/nonsense",
    "/live?at=//evil.example/",
    "/live?at=/pictures/none",
    "/live",
    "/page/../access.py",
    "/page/VENDOR.toml",
    "/pictures.zip",
    "/pictures.zip?id=none",
    "/login?next=//evil.example",
    "/?" + "search=x&" * 500,
)


async def test_a_wrong_address_gets_a_sentence(tmp_path: Path) -> None:
    async with page(tmp_path) as (_, browser):
        for path in WRONG:
            answer = await browser.get(path)
            assert answer.status_code < 500, path
            assert "Traceback" not in answer.text


async def test_the_search_finds_by_words_labels_and_status(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        journal = here.receiver.journal
        await journal.add(submission(1, prompt="a red boat", labels={"shelf": "3"}))
        await journal.add(submission(2, prompt="a blue fox", labels={"shelf": "4"}, status="refused"))
        for days, prompt in ((6, "a new swan"), (8, "an old swan")):
            at_ms = here.receiver.clock.now_ms() - days * 86_400_000
            await journal.add(submission(id=new_id(at_ms), created_ms=at_ms, prompt=prompt, kind="edits"))
        for query, found, missing in (
            ("search=BOAT", "red boat", "blue fox"),
            ("label=shelf=4", "blue fox", "red boat"),
            ("status=refused", "blue fox", "red boat"),
            ("kind=imagine", "red boat", "Nothing matches"),
            ("days=7", "new swan", "old swan"),
        ):
            text = (await browser.get(f"/tasks?{query}")).text
            assert found in text, query
            assert missing not in text, query
        assert "blue fox" not in (await browser.get("/pictures")).text  # it never gets a picture
        assert "blue fox" in (await browser.get("/pictures?status=refused")).text


async def test_older_ones_are_a_page_away(tmp_path: Path) -> None:
    """And each is on exactly one page."""
    async with page(tmp_path, keep_submissions=0) as (here, browser):
        for number in range(1, 131):
            await here.receiver.journal.add(submission(number, prompt=f"picture {number:03}"))
        seen: list[str] = []
        path: str | None = "/tasks"
        while path:
            text = (await browser.get(path)).text
            seen += re.findall(r'class="wide">picture (\d+)', text)
            following = re.search(r'href="(/tasks\?[^"]*after=[^"]*)"', text)
            path = following[1].replace("&amp;", "&") if following else None
        assert seen == [f"{number:03}" for number in range(130, 0, -1)]


@pytest.mark.parametrize("seconds", [0.0, 60.0])
async def test_a_search_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A page says how far back it has searched, and the next one goes on from there. All is found once."""
    monkeypatch.setattr(views, "SEARCH_SECONDS", seconds)
    days = [1, 2, 3, 30, 400, 401]
    async with page(tmp_path, keep_submissions=0) as (here, browser):
        now_ms = here.receiver.clock.now_ms()
        for number, age in enumerate(days):
            at_ms = now_ms - age * 86_400_000
            prompt = f"a fox, {number}" if age != 2 else "a boat"
            await here.receiver.journal.add(submission(id=new_id(at_ms), created_ms=at_ms, prompt=prompt))
        found, pages, path = [], 0, "/tasks?search=fox"
        while path:
            text = (await browser.get(path)).text
            found += re.findall(r'class="wide">a fox, (\d)', text)
            following = re.search(r'href="(/tasks\?[^"]*after=[^"]*)"', text)
            assert ("Searched back" in text) == bool(following)
            path, pages = following[1].replace("&amp;", "&") if following else "", pages + 1
        assert found == ["0", "2", "3", "4", "5"]
        assert (pages > 3) == (seconds == 0)
        assert "Searched back" not in (await browser.get("/tasks")).text


# Files


async def test_a_file_has_ranges_and_its_digest_as_etag(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        id = await finished(here)
        whole = await browser.get(f"/pictures/{id}/files/0")
        assert whole.status_code == 200
        assert whole.headers["content-type"] == "image/png"
        assert whole.headers["etag"] == f'"{hashlib.sha256(whole.content).hexdigest()}"'
        assert whole.headers["cache-control"].startswith("private")
        part = await browser.get(f"/pictures/{id}/files/0", headers={"Range": "bytes=0-7"})
        assert (part.status_code, part.content) == (206, whole.content[:8])
        same = await browser.get(f"/pictures/{id}/files/0", headers={"If-None-Match": whole.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        assert (await browser.get(f"/pictures/{id}/files/9")).status_code == 404


async def test_a_thumbnail_is_made_before_the_first_look(tmp_path: Path) -> None:
    """Beside the picture, as soon as that is archived. No look makes another one."""
    async with page(tmp_path) as (here, browser):
        id = await finished(here)
        [item] = (await here.receiver.journal.find(id, whole=True)).media
        kept = here.receiver.store.path(item).with_suffix(".u.webp")
        await until(kept.exists)
        made = kept.stat().st_mtime_ns
        answer = await browser.get(f"/pictures/{id}/thumbs/0")
        assert (answer.headers["content-type"], answer.content) == ("image/webp", kept.read_bytes())
        assert kept.stat().st_mtime_ns == made
        assert sniff(answer.content) == ("image/webp", ".webp")


async def test_a_picture_that_cannot_be_decoded_is_tried_once(tmp_path: Path) -> None:
    """Each look at a page would start a decoder otherwise."""
    store = MediaStore(tmp_path)
    broken = await store.put_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture" * 9, url="")
    thumbnails = Thumbnails(store)
    with logged() as lines:
        for _ in range(3):
            with pytest.raises(MediaError) as raised:
                await thumbnails.of(broken)
            assert raised.value.permanent
    assert [line["event"] for line in lines] == ["picture.refused"]


async def test_the_first_page_counts_what_is_under_way(tmp_path: Path) -> None:
    """Also what is older than the newest pictures, and it names what is wrong as `doctor` does."""
    settings = Settings(provider_key="s" * 20, data=tmp_path, page_users=USERS)  # type: ignore[arg-type]
    async with open_runtime(settings) as runtime, serving(web_app(runtime)) as url:
        for number in range(1, 71):
            old = {"status": "accepted", "poll_due_ms": NOW, "send_due_ms": None} if number <= 3 else {}
            await runtime.journal.add(submission(number, **old))
        await runtime.journal.note(Trouble(name="provider", since_ms=NOW, text="The provider is away."))
        async with httpx.AsyncClient(base_url=url, headers=OURS) as browser:
            await log_in(browser, "ann")
            text = (await browser.get("/")).text
    assert "<b>3</b><span>under way" in text
    assert "<b>67</b><span>waiting to send" in text
    assert "1 thing needs you." in text
    assert "The provider is away." in text


async def test_selected_pictures_come_as_one_zip(tmp_path: Path) -> None:
    async with page(tmp_path, "ann") as (here, browser):
        ids = [await finished(here), await finished(here, "a red fox")]
        answer = await browser.get("/pictures.zip", params={"id": ids})
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            assert sorted(archive.namelist()) == sorted(f"{id}-0.png" for id in ids)


# Forms


async def test_a_prompt_becomes_a_picture_and_a_button_costs_once(tmp_path: Path) -> None:
    """U2 in two tabs is one submission. The actions are journalled with their user."""
    async with page(tmp_path, "mia") as (here, browser):
        answer = await browser.post("/make", data={"prompt": PROMPT, "labels": "shelf=3", "to": "file"})
        id = answer.headers["location"].rpartition("/")[2]
        row = await here.rest(id)
        assert (row.prompt, row.labels, row.destinations) == (PROMPT, {"shelf": "3"}, ("file",))
        made = [await browser.post(f"/tasks/{id}/press", data={"button": "U2"}) for _ in range(2)]
        assert {item.status_code for item in made} == {303}
        assert len({item.headers["location"] for item in made}) == 1
        child = await here.rest(made[0].headers["location"].rpartition("/")[2])
        assert (child.button, child.parent_id) == ("U2", id)
        await log_in(browser, "ann")
        text = (await browser.get("/system")).text
        assert "<b>mia</b> made imagine" in text
        assert "<b>mia</b> pressed U2" in text


WRONG_FORMS: tuple[tuple[dict[str, str], str], ...] = (
    ({"prompt": ""}, "The prompt is empty"),
    ({"prompt": "x" * 6001}, "shorten it"),
    ({"prompt": "x", "kind": "nonsense"}, "There is no kind"),
    ({"prompt": "x", "labels": "nonsense"}, "A label is written"),
    ({"prompt": "x", "to": "nowhere"}, "There is no destination"),
    ({"prompt": "x", "speed": "warp"}, "speed"),
    ({"prompt": "x", "account_filter": "{"}, "is no JSON"),
    ({"kind": "blend"}, "pictures"),
    ({"kind": "describe", "source": "ftp://x/y.png"}, "A picture is a file"),
)


async def test_a_wrong_form_gets_a_sentence_and_costs_nothing(tmp_path: Path) -> None:
    async with page(tmp_path, "mia") as (here, browser):
        for form, sentence in WRONG_FORMS:
            answer = await browser.post("/make", data=form)
            assert answer.status_code == 422, form
            assert sentence in answer.text, form
        assert not await here.receiver.journal.page("submissions", EVERYTHING, limit=1)


async def test_a_picture_of_the_form_goes_along(tmp_path: Path) -> None:
    async with page(tmp_path, "mia") as (here, browser):
        await finished(here)
        png = here.pictures()[0].read_bytes()
        answer = await browser.post("/make", data={"kind": "describe"}, files={"source": ("a.png", png, "image/png")})
        assert answer.status_code == 303, answer.text
        row = await here.rest(answer.headers["location"].rpartition("/")[2])
        assert row.ended == "task.succeeded"
        assert row.inputs[0].digest == hashlib.sha256(png).hexdigest()


async def test_a_replay_is_previewed_before_it_is_done(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        id = await finished(here)
        # On a busy machine a late file makes a further event, which is delivered too.
        delivery, *_ = await here.receiver.journal.deliveries(limit=9, submission_id=id, status="succeeded")
        preview = await browser.post("/deliveries/replay", data={"id": delivery.id, "destination": "file"})
        assert preview.status_code == 200
        assert "Replay 1 of 1?" in preview.text
        assert (await here.receiver.journal.delivery(delivery.id)) == delivery
        done = await browser.post("/deliveries/replay", data={"id": delivery.id, "confirm": "yes"})
        assert done.status_code == 303
        await here.rest(id)
        again = await here.receiver.journal.delivery(delivery.id)
        assert again is not None
        assert again.attempt == delivery.attempt + 1


async def test_all_that_match_are_replayed_only_with_a_filter(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        id = await finished(here)
        count = len(await here.receiver.journal.deliveries(limit=9, submission_id=id, destination="file"))
        everything = await browser.post("/deliveries/replay", data={"all": "yes"})
        assert everything.status_code == 422
        assert "Filter by destination or status first" in everything.text
        nothing = await browser.post("/deliveries/replay", data={"destination": "file"})
        assert nothing.status_code == 422
        preview = await browser.post("/deliveries/replay", data={"all": "yes", "destination": "file"})
        assert f"Replay {count} of {count}?" in preview.text


async def test_erasing_asks_first(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        id = await finished(here)
        assert "Erase 1 task?" in (await browser.post("/pictures/erase", data={"id": id})).text
        assert await here.receiver.journal.get(id) is not None
        assert (await browser.post("/pictures/erase", data={"id": id, "confirm": "yes"})).status_code == 303
        assert await here.receiver.journal.get(id) is None


async def test_a_destination_is_paused_and_resumed(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        await finished(here)
        await browser.post("/destinations/file/pause")
        assert "paused by otto" in (await browser.get("/destinations")).text
        await browser.post("/destinations/file/resume")
        assert "paused by otto" not in (await browser.get("/destinations")).text
        assert (await browser.post("/destinations/nowhere/pause")).status_code == 404
        sample = await browser.post("/destinations/file/sample")
        assert "file took the sample" in sample.text


async def test_a_result_is_sent_to_a_destination_once_more(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        id = await finished(here)
        before = await here.receiver.journal.deliveries(limit=9, submission_id=id, destination="file")
        answer = await browser.post("/pictures/send", data={"id": id, "to": "file"})
        assert answer.status_code == 303
        await here.rest(id)
        sent = await here.receiver.journal.deliveries(limit=9, submission_id=id, destination="file", status="succeeded")
        assert len(sent) == len(before) + 1
        assert "task.succeeded" in sent[0].event_id


# Live


async def test_a_picture_appears_in_an_open_page(tmp_path: Path) -> None:
    """The stream sends the regions that changed, and only those."""
    async with page(tmp_path) as (here, browser):
        first = await here.submit()
        headers = {"Accept": "text/event-stream"}
        async with browser.stream("GET", "/live", params={"at": f"/pictures/{first.id}"}, headers=headers) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.aiter_lines():
                if f"/pictures/{first.id}/files/0" in line:
                    break


async def test_a_change_right_after_another_is_shown_before_the_next_look() -> None:
    """Progress that was just shown holds up no picture."""
    live, numbers = Live(), itertools.count(1)

    async def render() -> dict[str, str]:
        return {"grid": str(next(numbers))}

    async with aclosing(live.follow(("/",), render, {"grid": "0"})) as stream:
        await anext(stream)
        for number in range(1, 4):
            look = asyncio.create_task(asyncio.sleep(LOOK_SECONDS))
            live.changed()
            coming = asyncio.ensure_future(anext(stream))
            await asyncio.wait({look, coming}, return_when=asyncio.FIRST_COMPLETED)
            assert f">{number}<" in coming.result()
            look.cancel()


async def test_new_pictures_are_counted_instead_of_shifting_the_grid(tmp_path: Path) -> None:
    async with page(tmp_path) as (here, browser):
        old = await finished(here)
        text = (await browser.get("/pictures")).text
        [live] = re.findall(r'hx-sse:connect="([^"]+)"', text)
        new = await finished(here, "a red fox")
        regions = (await browser.get(live.replace("&amp;", "&"))).text
        assert "1 new" in regions
        assert f"tile-{old}" in regions
        assert f"tile-{new}" not in regions


async def test_too_many_open_pages_get_a_503(tmp_path: Path) -> None:
    """A browser tries again later. Callbacks have room of their own."""
    async with page(tmp_path) as (_, browser):
        headers = {"Accept": "text/event-stream"}
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=browser.base_url, cookies=browser.cookies, limits=limits) as tabs,
            AsyncExitStack() as stack,
        ):
            streams = []  # one that is forgotten closes its connection
            for number in range(MAX_STREAMS + 1):
                tab = await stack.enter_async_context(
                    tabs.stream("GET", "/live", params={"at": "/tasks"}, headers=headers)
                )
                assert tab.status_code == (200 if number < MAX_STREAMS else 503)
                if number < MAX_STREAMS:
                    streams.append(tab.aiter_lines())
                    await anext(streams[-1])  # it is open


# The handbook


async def test_the_handbook_is_shown_with_its_pictures(tmp_path: Path) -> None:
    async with page(tmp_path) as (_, browser):
        [picture] = re.findall(r'<article>.*?<img src="([^"]+)"', (await browser.get("/help/page")).text, re.DOTALL)
        answer = await browser.get(picture)
        assert answer.headers["content-type"] == "image/webp"
        assert sniff(answer.content) == ("image/webp", ".webp")


# Where it is mounted


async def test_it_works_inside_another_application(tmp_path: Path) -> None:
    settings = Settings(provider_key="s" * 20, data=tmp_path, page_users=USERS)  # type: ignore[arg-type]
    async with open_runtime(settings) as runtime:
        app = Starlette(routes=[Mount("/art", app=web_app(runtime))])
        with bind("127.0.0.1", 0) as listener:
            async with served(app, listener), httpx.AsyncClient(base_url=address(listener), headers=OURS) as browser:
                answer = await browser.get("/art/pictures")
                assert answer.headers["location"] == "/art/login?next=%2Fpictures"
                done = await browser.post("/art/login", data={"secret": "otto" * 8, "next": "/pictures"})
                assert done.headers["location"] == "/art/pictures"
                text = (await browser.get("/art/pictures")).text
                assert not re.findall(r'(?:href|src|action|connect)="(/(?!art/)[^"]*)"', text)
                for link in set(re.findall(r'(?:href|src)="(/art/[^"]*)"', text)):
                    assert (await browser.get(link.replace("&amp;", "&"))).status_code == 200, link


# What is not ours


def test_vendored_files_are_as_published() -> None:
    """`scripts/vendor` compares with npm itself."""
    for item in tomllib.loads((FOLDER / "static/VENDOR.toml").read_text())["file"]:
        content = (FOLDER / "static" / item["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == item["sha256"], item["name"]
        assert item["licence"] == "0BSD"


def test_our_own_script_stays_small() -> None:
    assert len((FOLDER / "static/page.js").read_text().splitlines()) <= 200


async def test_a_bearer_token_asks_the_api_where_both_have_an_address(tmp_path: Path) -> None:
    """Every other request is the page's, also with the credentials of a proxy before it."""
    async with page(tmp_path, "otto", api_tokens={"n8n": "s" * 16}) as (_, browser):
        token = {"Authorization": "Bearer " + "s" * 16}
        for path in ("/deliveries", "/destinations"):
            for headers in ({}, {"Authorization": "Basic b3R0bzpvdHRv"}):
                assert (await browser.get(path, headers=headers)).headers["content-type"].startswith("text/html")
            assert isinstance((await browser.get(path, headers=token)).json(), list)
            assert (await browser.get(path, headers={"Authorization": "Bearer wrong"})).status_code == 401
        assert (await browser.post("/destinations/file/pause", headers=token)).json()["status"] == "paused"
        assert (await browser.post("/destinations/file/resume")).status_code == 303
        assert (await browser.post("/deliveries/replay", headers=token, json={})).status_code == 422
        assert (await browser.get("/submissions")).status_code == 401
