"""What a destination's table says about which events go there."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver.app.factory import open_all, route_of
from receiver.engine.attempts import OpenDestination
from receiver.errors import SettingsError
from receiver.settings import Destination, load

TOML = """
[destinations.album]
url = "file:./album"
progress = true
events = ["task.succeeded", "task.failed"]
actions = ["upscale", "PAN*"]
labels = { customer = "acme-*" }
"""


def test_a_table_says_what_goes_there(tmp_path: Path) -> None:
    """Types, actions in any case, and labels; none of it is an option of the handler."""
    (tmp_path / "receiver.toml").write_text(TOML)
    (item,) = load({}, tmp_path).resolved_destinations()
    route = route_of(item)
    assert route.types == {"task.succeeded", "task.failed"}
    assert (route.progress, route.actions, route.labels) == (True, {"UPSCALE", "PAN*"}, (("customer", "acme-*"),))
    assert item.options == {}


def test_variables_say_the_same(tmp_path: Path) -> None:
    """Lists as words, labels one by one or as JSON."""
    environ = {
        "RECEIVER_DESTINATIONS__ALBUM__URL": "file:./album",
        "RECEIVER_DESTINATIONS__ALBUM__EVENTS": "task.succeeded task.failed",
        "RECEIVER_DESTINATIONS__ALBUM__ACTIONS": "UPSCALE",
        "RECEIVER_DESTINATIONS__ALBUM__LABELS__CUSTOMER": "acme-*",
    }
    (item,) = load(environ, tmp_path).resolved_destinations()
    assert (item.events, item.actions) == (("task.succeeded", "task.failed"), ("UPSCALE",))
    assert item.labels == {"customer": "acme-*"}


def test_deliveries_at_once_suit_the_handler(tmp_path: Path) -> None:
    """A chat allows few requests a second, and programs take memory. A number in the table is what counts."""
    (tmp_path / "receiver.toml").write_text(
        """
        destinations.album.url = "file:./album"
        destinations.shop = { handler = "webhook", url = "https://shop.example.com", secret = "whsec_SECRET" }
        destinations.team = { url = "slack://pictures", token = "xoxb-1" }
        destinations.print = { handler = "command", command = ["true"] }
        destinations.slow = { url = "file:./slow", concurrency = 2 }
        """.replace("SECRET", "A" * 32)
    )
    opened: dict[str, OpenDestination] = {}
    open_all(opened, load({}, tmp_path))
    assert {item.name: item.concurrency for item in opened.values()} == {
        "album": 16, "shop": 16, "team": 4, "print": 4, "slow": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"events": ("task.succeded",)},
            "events is wrong: there is no event type 'task.succeded'. Did you mean task.su",
        ),
        ({"events": ("x",)}, "there is no event type 'x'. There are: task.accepted, task.progressed, task.input_req"),
        ({"actions": ("upscael",)}, "actions is wrong: there is no provider action 'UPSCAEL'. Did you mean UPSCALE?"),
    ],
)
def test_what_there_is_not_stops_the_start(fields: dict[str, tuple[str, ...]], problem: str) -> None:
    """Naming destination, option and remedy: a route that never matches would lose every result in silence."""
    with pytest.raises(SettingsError) as caught:
        route_of(Destination(**{"name": "album", **fields}))
    assert str(caught.value).startswith("Destination album: the option ")
    assert problem in str(caught.value)
