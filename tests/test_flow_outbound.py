"""Routing, webhook and command end to end: real processes, from the submit to what the other side got."""

from __future__ import annotations

import json
from pathlib import Path

from servers import Command, receiver, simulating

from receiver.handlers.webhook import new_secret

TOML = """
[destinations.hook]
url = "{url}"
secret = "{secret}"
progress = true

[destinations.acme]
handler = "command"
command = ["/bin/sh", "-c", "cp \\"$$MEDIA_PATH\\" \\"$$SUBMISSION_ID\\" && echo $$SUBMISSION_ID"]
labels = {{ customer = "acme-*" }}

[destinations.upscales]
url = "file:./upscales"
actions = ["UPSCALE"]

[destinations.alarm]
url = "file:./alarm"
events = ["task.failed", "task.lost"]
"""


def test_each_event_goes_where_it_belongs(tmp_path: Path) -> None:
    """By type, action and labels; a submission that names its destinations goes to those alone."""
    secret = new_secret()
    with (
        simulating(tmp_path) as provider,
        Command("listen", "--port", "0", "--secret", secret, folder=tmp_path, env={}) as listener,
    ):
        url = listener.out.line("Listening on ").split()[-1]
        (tmp_path / "receiver.toml").write_text(TOML.format(url=url, secret=secret))
        env = {
            "RECEIVER_PROVIDER_URL": provider,
            "COMETAPI_KEY": "k",
            "RECEIVER_POLL_INTERVAL": "0.1",
            "RECEIVER_MEDIA_HOSTS": provider,
        }

        def submit(*arguments: str) -> str:
            result = receiver(
                "submit", "a paper boat --v 6.1", *arguments, "--wait", "--json", folder=tmp_path, env=env
            )
            assert result.code == 0, result.err
            return str(json.loads(result.out)["submission"])

        acme = submit("--label", "customer=acme-7")
        other = submit("--label", "customer=other")
        named = submit("--label", "customer=other", "--to", "acme")
        heard = listener.stop().out
    listed = json.loads(receiver("deliveries", "list", "--json", folder=tmp_path, env=env).out)
    went = {(item["submission_id"], item["destination"]) for item in listed if item["status"] == "succeeded"}
    assert went == {(acme, "hook"), (acme, "acme"), (other, "hook"), (named, "acme")}
    for submission in (acme, named):
        assert (tmp_path / submission).read_bytes().startswith(b"\x89PNG")
    for submission in (acme, other):
        assert f"verified  task.succeeded  {submission}" in heard
        assert f"verified  task.progressed  {submission}" in heard or f"verified  task.accepted  {submission}" in heard
    assert named not in heard
    assert "REFUSED" not in heard
    assert not (tmp_path / "upscales").exists()
    assert not (tmp_path / "alarm").exists()
