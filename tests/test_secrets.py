"""No secret comes back: a provider and places that repeat all they know, and every kind of output watched."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import forget_logging
from proxies import connect_proxy
from servers import environment, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner
from waiting import PATIENCE

from receiver.app.container import Runtime
from receiver.app.doctor import examine
from receiver.app.factory import open_runtime
from receiver.app.web import web_app
from receiver.cli import app
from receiver.deliveries import Delivery
from receiver.errors import ReceiverError
from receiver.requests import build
from receiver.settings import load, show
from receiver.telemetry import REDACTED, Log, configure

MARK = "repeated-by-a-stranger"
"""Stands beside the secrets wherever they are repeated, and shows that the words themselves arrived."""
SECRETS = {
    "provider key": "sk-planted-0001-provider",
    "old signing key": "planted-0002-" + "o" * 32,
    "new signing key": "planted-0003-" + "n" * 32,
    "API token": "planted-0004-api-token",
    "cron secret": "planted-0005-cron-secret",
    "Slack's token": "xoxb-planted-0006",
    "path of Discord's URL": "planted_0007-discord",
    "path of a webhook": "planted-0008-path",
    "query of a webhook": "planted-0009/query",
    "credentials of a webhook": "cGxhbnRlZC0wMDEwOnBhc3N3b3Jk",
    "signing secret of a webhook": "whsec_cGxhbnRlZC0wMDExLXBsYW50ZWQtMDAxMS0wMDEx",
    "header of a webhook": "planted 0012 header",
    "variable of a command": "planted-0013-variable",
    "token of a chat": "1400140014:planted_0014_" + "c" * 30,
    "password of a mailbox": "planted@0015",
    "password of the proxy": "planted-0016-proxy",
    "password of the public URL": "planted-0017-public",
    "secret key of a bucket": "planted/0018+bucket",
    "variable within a URL": "planted-0019-variable",
    "token of another program": "planted-0020-other",
}
"""By name; `URL token` and `state token` come as soon as they are made."""


def environ(folder: Path, provider: str, place: str, proxy: str) -> dict[str, str]:
    """Variables that hold every secret, each where people put it."""
    quoted = {name: httpx.QueryParams({"": text}).__str__().removeprefix("=") for name, text in SECRETS.items()}
    command = folder / "repeat"
    command.write_text('#!/bin/sh\ncat "$REPEATED" >&2\ncat "$REPEATED"\nexit 1\n')
    command.chmod(0o755)
    hook = f"{place}/{SECRETS['path of a webhook']}?code={quoted['query of a webhook']}&more=$WITHIN"
    toml = f"""
        [destinations.hook]
        url = "{hook}"
        secret = "{SECRETS["signing secret of a webhook"]}"
        headers.X-Pass = "{SECRETS["header of a webhook"]}"
        headers.Authorization = "Basic {SECRETS["credentials of a webhook"]}"
        [destinations.program]
        url = "command:./repeat"
        environment = {{ REPEATED = "{folder / "said"}", API_KEY = "{SECRETS["variable of a command"]}" }}
        [destinations.talk]
        url = "tgram://{SECRETS["token of a chat"]}/12345678"
        labels = {{ never = "this" }}
        [destinations.mail]
        url = "mailto://me:{quoted["password of a mailbox"]}@example.test?smtp=127.0.0.1"
        labels = {{ never = "this" }}
    """
    return {
        "RECEIVER_CONFIG": toml, "RECEIVER_DATA": str(folder / "data"), "RECEIVER_TO": f"file:{folder / 'outputs'}",
        "RECEIVER_PROVIDER_URL": provider, "COMETAPI_KEY": SECRETS["provider key"],
        "RECEIVER_KEYS": f"{SECRETS['old signing key']} {SECRETS['new signing key']}",
        "RECEIVER_API_TOKENS": f"me:{SECRETS['API token']}", "CRON_SECRET": SECRETS["cron secret"],
        "SLACK_BOT_TOKEN": SECRETS["Slack's token"],
        "DISCORD_WEBHOOK_URL": "https://discord.com/api/webhooks/12/" + SECRETS["path of Discord's URL"],
        "HTTPS_PROXY": f"http://me:{SECRETS['password of the proxy']}@{proxy}",
        "RECEIVER_PUBLIC_URL": f"https://me:{SECRETS['password of the public URL']}@receiver.test",
        "AWS_SECRET_ACCESS_KEY": SECRETS["secret key of a bucket"], "WITHIN": SECRETS["variable within a URL"],
        "GITHUB_TOKEN": SECRETS["token of another program"], "RECEIVER_CONFIRM_WITHIN": "0",
        "RECEIVER_POLL_INTERVAL": "0.05", "RECEIVER_LOG_LEVEL": "debug",
    }  # fmt: skip


class Stranger:
    """A provider and a place for webhooks that repeat every secret in every text, and what they were sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.secrets = dict(SECRETS)
        self.posted: list[str] = []
        self.ends = {"1": "FAILURE", "2": "SUCCESS", "3": "SUCCESS"}
        self.app = Starlette(
            routes=[
                Route("/mj/submit/{kind}", self.submit, methods=["POST"]),
                Route("/mj/task/{id}/{question}", self.ask, methods=["GET", "POST"]),
                Route("/mj/task/list-by-condition", lambda request: Response(status_code=404), methods=["POST"]),
                Route("/{path:path}", self.take, methods=["GET", "POST"]),
            ]
        )

    @property
    def said(self) -> str:
        return " ".join([MARK, *self.secrets.values()])

    async def submit(self, request: Request) -> Response:
        body = await request.json()
        self.secrets |= {"URL token": body["notifyHook"].rpartition("/")[2], "state token": body["state"]}
        (self._folder / "said").write_text(self.said)
        if "refuse" in body["prompt"]:
            return JSONResponse({"code": 4, "description": self.said})
        number = next(id for id in self.ends if id in body["prompt"])
        return JSONResponse({"code": 1, "description": self.said, "result": number})

    def task(self, id: str, **changes: Any) -> dict[str, Any]:
        button = {"customId": "MJ::JOB::reroll", "label": self.said[:900]}
        return {
            "id": id, "status": self.ends[id], "action": "DESCRIBE" if id == "3" else "IMAGINE", "progress": "100%",
            "prompt": self.said, "promptEn": self.said, "description": self.said, "failReason": self.said,
            "properties": {"finalPrompt": self.said, "notifyHook": self.said}, "buttons": [button],
            "imageUrl": f"http://127.0.0.1:9/{MARK}/{self.secrets['provider key']}/x.png?{self.said}",
            "state": self.secrets["state token"], **changes,
        }  # fmt: skip

    async def ask(self, request: Request) -> Response:
        if request.path_params["question"] != "fetch":
            return JSONResponse({"code": 4, "description": self.said})
        return JSONResponse(self.task(request.path_params["id"]))

    async def take(self, request: Request) -> Response:
        """Repeat the request, too, as debugging servers do."""
        self.posted.append((await request.body()).decode())
        head = f"{request.url} {dict(request.headers)}"
        return PlainTextResponse(f"{self.said} {head}", 500)


async def deliveries(runtime: Runtime) -> list[Delivery]:
    return await runtime.journal.deliveries(limit=99)


def all_tried(items: list[Delivery]) -> bool:
    """Return True if six were tried, and the words of a stranger came back from one that failed."""
    tried = [item for item in items if item.failures or item.status in ("succeeded", "dead")]
    return len(tried) >= 6 and any(MARK in (item.detail or "") for item in tried)


async def lived(
    runtime: Runtime, stranger: Stranger, http: httpx.AsyncClient, token: Mapping[str, str]
) -> dict[str, str]:
    """Submissions that fail, succeed, describe and are refused. Return what was said and shown meanwhile."""
    outputs: dict[str, str] = {}
    for prompt in ("1 fails", "2 succeeds", "3 describes", "refuse it"):
        row = await runtime.submissions.prepare(build("imagine", prompt=prompt))
        try:
            await runtime.submissions.send(row.id)
        except ReceiverError as exc:
            outputs[f"error of {prompt}"] = str(exc)
        hook = f"/callbacks/{stranger.secrets['URL token']}"
        if prompt[0] in stranger.ends:
            content = stranger.task(prompt[0], status="IN_PROGRESS", progress="50%")
            answer = await http.post(hook, json=content)
            assert answer.status_code == 200, answer.text
        outputs |= {f"refused callback of {prompt}": (await http.post(f"{hook}x", json={})).text}
    for id in "123":
        try:
            await runtime.provider.image_seed(id)
        except ReceiverError as exc:
            outputs[f"error of the seed of {id}"] = str(exc)
    # The failure and the description are tried at three places each. The picture of the other one stays away.
    async with asyncio.timeout(PATIENCE):
        while not all_tried(await deliveries(runtime)):
            await runtime.clock.sleep(0.02)
    shown = ["/livez", "/readyz", "/submissions", "/nowhere", f"/{stranger.secrets['provider key']}"]
    for row in await runtime.journal.submissions(limit=9):
        shown += [f"/submissions/{row.id}", f"/submissions/{row.id}/events", f"/submissions/{row.id}/seed"]
    for path in shown:
        outputs[f"GET {path}"] = (await http.get(path, headers=token)).text
    outputs["POST /submissions"] = (await http.post("/submissions", json={"prompt": "refuse it"}, headers=token)).text
    return outputs


COMMANDS = [
    ["settings"], ["settings", "--json"], ["doctor"], ["doctor", "--json"], ["tasks", "list"],
    ["tasks", "list", "--json"], ["events", "list"], ["events", "list", "--json"], ["deliveries", "list"],
    ["deliveries", "list", "--json"], ["destinations", "list"], ["destinations", "list", "--json"], ["engines"],
    ["submit", "refuse it"], ["destinations", "test", "hook"], ["destinations", "test", "program"],
    ["journal", "check"], ["handlers"],
]  # fmt: skip


def commands(env: Mapping[str, str], folder: Path, ids: Mapping[str, str]) -> dict[str, str]:
    """Everything that commands print."""
    outputs = {}
    shown = [[kind, "show", id, *more] for kind, id in ids.items() for more in ([], ["--json"])]
    for arguments in (*COMMANDS, *shown):
        result = CliRunner().invoke(app, arguments, env={**environment(folder, env), "RECEIVER_LOG_LEVEL": "debug"})
        outputs[f"receiver {' '.join(arguments)}"] = f"{result.output} {result.exception}"
    return outputs


def leaks(secrets: Mapping[str, str], outputs: Mapping[str, str]) -> list[tuple[str, str]]:
    """The name of each secret, and of the output that it is in."""
    return [(name, where) for where, text in outputs.items() for name, secret in secrets.items() if secret in text]


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_bytes().decode("utf-8", "replace")
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("said", "repeat")
    }


def test_no_secret_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs at every level, files, the journal, the HTTP API, commands, errors and what places are sent."""
    monkeypatch.chdir(tmp_path)
    log, stranger = io.StringIO(), Stranger(tmp_path)
    outputs: dict[str, str] = {}
    env: dict[str, str] = {}
    ids: dict[str, str] = {}

    async def main() -> None:
        async with serving(stranger.app) as place, connect_proxy(status=407) as proxy:
            env.update(environ(tmp_path, place, place, f"127.0.0.1:{proxy.port}"))
            settings = load(env, tmp_path)
            configure(level="debug", format="json", secrets=settings.secret_values(), stream=log)
            async with open_runtime(settings) as runtime, serving(web_app(runtime)) as url:
                token = {"Authorization": f"Bearer {SECRETS['API token']}"}
                await runtime.start_engine("serve")
                async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                    outputs.update(await lived(runtime, stranger, http, token))
                row = (await runtime.journal.submissions(limit=1))[0]
                (event, *_) = await runtime.journal.events(limit=1)
                delivery = next(item for item in await deliveries(runtime) if MARK in (item.detail or ""))
                ids.update({"tasks": row.id, "events": event.id, "deliveries": delivery.id})
                logging.getLogger("apprise").warning("sent to %s", stranger.said)
                logging.getLogger("botocore").debug("%s", {"headers": {"x": stranger.said.encode()}})
                try:
                    raise RuntimeError(stranger.said)
                except RuntimeError as exc:
                    Log("receiver.tests").error("test.failed", exc_info=exc, body=stranger.said)
            away = load({**env, "RECEIVER_PROVIDER_URL": "https://api.test"}, tmp_path)
            outputs["doctor behind a proxy"] = str([item async for item in examine(away)])
            outputs.update(await asyncio.to_thread(commands, env, tmp_path, ids))

    try:
        asyncio.run(main())
    finally:
        forget_logging()
    outputs["log"] = log.getvalue()
    outputs["bodies of webhooks"] = " ".join(stranger.posted)
    outputs |= files(tmp_path)
    spelled = {f"{name}, {kind}": change(text) for name, text in stranger.secrets.items() for kind, change in SPELLINGS}
    assert len(stranger.secrets) == 22
    found = leaks(spelled, outputs)
    assert found == [], "\n".join(map(str, found))
    for where in (
        "log",
        "bodies of webhooks",
        "data/journal.db",
        f"receiver deliveries show {ids['deliveries']} --json",  # with each attempt: the stop may interrupt the last
        "GET /submissions",
    ):
        assert MARK in outputs[where], where  # the words themselves arrived there
        assert REDACTED in outputs[where], where
    modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("data", "data/journal.db")}
    assert modes == {"data": 0o700, "data/journal.db": 0o600}


SPELLINGS = (
    ("as it is", lambda text: text),
    ("in a URL", lambda text: httpx.QueryParams({"": text}).__str__().removeprefix("=")),
    ("in JSON", lambda text: json.dumps(text)[1:-1].replace("/", "\\/")),
)


def test_the_watch_sees_a_leak() -> None:
    """The control: a secret in one output is named with it."""
    assert leaks(SECRETS, {"good": MARK, "bad": f"so {SECRETS['cron secret']}."}) == [("cron secret", "bad")]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("RECEIVER_PUBLIC_URL", "https://me:planted-1@h.test/x"),
        ("RECEIVER_PUBLIC_URL", "https://planted-1@h.test"),
        ("RECEIVER_PROVIDER_URL", "https://me:planted-1@h.test/x"),
        ("RECEIVER_PROXY", "http://me:planted-1@h.test:3128"),
        ("RECEIVER_DATABASE", "postgresql+asyncpg://me:planted-1@h.test/d"),
        ("RECEIVER_DATABASE", "postgresql://me:12/planted-1@h.test/d"),
        ("RECEIVER_DATABASE", "postgresql://h.test/d?sslpassword=planted-1"),
        ("RECEIVER_MEDIA", "s3://acme/mj?secret_access_key=planted-1"),
        ("RECEIVER_MEDIA", "az://acme/mj?sig=planted-1"),
        ("RECEIVER_TO", "https://h.test/a?x=planted-1 tgram://planted-1/2 s3://me:planted-1@acme"),
    ],
)
def test_userinfo_is_shown_nowhere(name: str, url: str, tmp_path: Path) -> None:
    """Neither by `settings` and a repr, nor in any line of the log."""
    settings = load({name: url}, tmp_path)
    assert "planted" not in str(show(settings)) + repr(settings)
    assert any("planted-1" in text for text in settings.secret_values())
