"""Slack's Web API (docs.slack.dev/apis/web-api) and incoming webhooks, and what their answers mean for a delivery."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from receiver.disk import in_thread
from receiver.handlers.base import Rejected, RetryLater, StoredMedia

RATE_SECONDS = 30.0
"""How long to wait where Slack sets no time."""
READY_WAITS = (0.3, 0.7, 1.0, 2.0, 4.0, 8.0)
"""Seconds between looks whether Slack has taken in an uploaded file: until then no block may show it."""
SHOWN_WAITS = (1.0, 1.0, 2.0, 4.0)
"""Seconds between tries to show it then."""
Sleep = Callable[[float], Awaitable[None]]
_TIMEOUT = httpx.Timeout(30.0)
_BLOCK = 1024 * 1024
_PAGES = 20
"""Of a thousand channels each."""
_HOMES = (".slack.com", ".slack-gov.com", ".slack-edge.com")

_REINSTALL = "Set SLACK_BOT_TOKEN to the bot token (xoxb-…) from the app's page OAuth & Permissions"
_SCOPES = "Paste the manifest again (receiver slack manifest), and reinstall the app"
_INVITE = "Invite the bot there: /invite @Receiver"
_WEBHOOK = "Make a new webhook on the app's page Incoming Webhooks, and set webhook_url to it"
_REPORT = "That is a fault of Receiver; please report it"
REMEDIES: Mapping[str, str] = {
    "invalid_auth": f"the token is wrong. {_REINSTALL}",
    "not_authed": f"no token arrived. {_REINSTALL}",
    "token_expired": f"the token has expired. {_REINSTALL}",
    "token_revoked": f"the token was revoked. Install the app again. {_REINSTALL}",
    "account_inactive": f"the bot or its workspace was removed. Install the app again. {_REINSTALL}",
    "not_allowed_token_type": f"this kind of token may not do that. {_REINSTALL}",
    "missing_scope": f"the app may not do that. {_SCOPES}",
    "no_permission": f"the app may not do that. {_SCOPES}",
    "access_denied": "the bot is denied access. Ask an administrator of the workspace to allow the app",
    "team_access_not_granted": "the app is not granted to this workspace. Ask an administrator to allow it",
    "ekm_access_denied": "administrators have suspended posting. Ask them",
    "org_login_required": "the workspace is being moved to an organisation. Try again when that is over",
    "channel_not_found": f"there is no such channel, or the bot cannot see it. Check the option channel. {_INVITE}",
    "not_in_channel": f"the bot is not in the channel. {_INVITE}",
    "is_archived": "the channel is archived. Unarchive it, or set the option channel to another one",
    "channel_is_archived": "the channel is archived. Unarchive it, or make a webhook for another one",
    "restricted_action": "the workspace lets the bot not post there. Ask an administrator, or choose another channel",
    "restricted_action_read_only_channel": "only some may post in this channel. Choose another one",
    "restricted_action_thread_only_channel": "only threads are allowed in this channel. Choose another one",
    "file_uploads_disabled": "the workspace forbids uploads. Ask an administrator, or use webhook_url with link",
    "file_uploads_except_images_disabled": "the workspace forbids uploads that are no pictures. Ask an administrator",
    "file_type_not_allowed": "the workspace forbids uploads of this kind. Ask an administrator",
    "file_upload_size_restricted": "the workspace limits the size of uploads. Ask an administrator to raise it",
    "no_service": f"the webhook was removed. {_WEBHOOK}",
    "no_active_hooks": f"the webhook was switched off. {_WEBHOOK}",
    "no_team": f"the webhook's workspace is gone. {_WEBHOOK}",
    "team_disabled": f"the webhook's workspace was disabled. {_WEBHOOK}",
    "invalid_token": f"the webhook's URL is wrong. {_WEBHOOK}",
    "action_prohibited": "an administrator restricts who may post there. Ask them",
    "posting_to_general_channel_denied": "only some may post to #general. Make a webhook for another channel",
    "invalid_payload": _REPORT,
    "invalid_blocks": _REPORT,
    "invalid_blocks_format": _REPORT,
    "invalid_arguments": _REPORT,
    "invalid_form_data": _REPORT,
    "msg_too_long": _REPORT,
    "msg_blocks_too_long": _REPORT,
    "no_text": _REPORT,
}
"""Answers that stay the same however often one asks, and what a person does about them."""
_LIMITED = frozenset({"ratelimited", "rate_limited", "rollup_error", "message_limit_exceeded"})


class SlackError(Exception):
    """Slack said no to a call.

    Attributes:
        code: Slack's own word for it, e.g. `channel_not_found`.
        details: what Slack adds for developers.
    """

    def __init__(self, method: str, code: str, details: str = "") -> None:
        super().__init__(f"Slack answered {code} to {method}{f' ({details})' if details else ''}")
        self.code = code
        self.details = details

    def raise_for_delivery(self) -> NoReturn:
        """What this means for a delivery: Rejected where a person must do something, else a failure to be retried."""
        if remedy := REMEDIES.get(self.code):
            raise Rejected(f"{self}: {remedy}.") from self
        raise self


class UnknownFile(ConnectionError):
    """Slack will not show an uploaded file in a post, or not yet."""


class SlackApi:
    """Calls of the Web API with a bot token.

    Args:
        token: `xoxb-…`.
        base_url: with which methods' addresses begin.
        sleep: waits for files; only tests need another one.
    """

    def __init__(self, token: str, base_url: str, *, sleep: Sleep = asyncio.sleep) -> None:
        self._base = base_url.rstrip("/")
        self._sleep = sleep
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, headers={"User-Agent": "imagine-receiver"})
        # Not in the client's headers: the picture's upload goes to another host, which must not see it.
        self._token = {"Authorization": f"Bearer {token}"}

    async def aclose(self) -> None:
        await self._client.aclose()

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One method, its arguments as a form, which every method takes; lists and tables as JSON in it.

        Raises:
            SlackError: Slack said no.
            RetryLater: too many calls.
            ConnectionError: no answer that makes sense.
        """
        form = {name: _field(value) for name, value in arguments.items() if value is not None}
        response = await _post(self._client, f"{self._base}/{method}", data=form, headers=self._token)
        answer = _table(response, method)
        if answer.get("ok") is True:
            return answer
        code = str(answer.get("error") or "an answer without a reason")
        if code in _LIMITED:
            raise RetryLater.from_headers(response.headers, otherwise=RATE_SECONDS, reason="Slack is called too often")
        raise SlackError(method, code, _messages(answer))

    async def post(self, method: str, **arguments: Any) -> dict[str, Any]:
        """A call that posts or edits. Files are looked at by a worker of Slack's own, and for some seconds a block that
        names one may be refused although `files.info` knows its type.

        Raises:
            UnknownFile: a file is refused to the end.
            SlackError, RetryLater, ConnectionError: as `call`.
        """
        for seconds in SHOWN_WAITS:
            with suppress(UnknownFile):
                return await self._posted(method, arguments)
            await self._sleep(seconds)
        return await self._posted(method, arguments)

    async def permalink(self, channel: str, ts: str) -> str | None:
        """A post's address. None where Slack does not say: the post is there all the same."""
        try:
            answer = await self.call("chat.getPermalink", channel=channel, message_ts=ts)
        except (SlackError, RetryLater, ConnectionError):
            return None
        return str(answer.get("permalink") or "") or None

    async def upload(self, stored: StoredMedia, name: str, alt_text: str) -> str:
        """The first two of the three steps: a place for the file, and its bytes. Returns the file's id."""
        place = await self.call(
            "files.getUploadURLExternal", filename=name, length=stored.media.size, alt_txt=alt_text[:1000] or None
        )
        url, file_id = str(place["upload_url"]), str(place["file_id"])
        self._check_home(url)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(stored.media.size)}
        response = await _post(self._client, url, content=_content(stored), headers=headers)
        if response.status_code != 200:
            raise ConnectionError(f"Slack's upload server answered {response.status_code} to the picture.")
        return file_id

    async def complete(self, files: list[tuple[str, str]], **where: Any) -> None:
        """The third step: ids and titles of uploaded files, and where to share them, if anywhere."""
        items = [{"id": file_id, "title": title} for file_id, title in files]
        await self.call("files.completeUploadExternal", files=items, **where)

    async def wait_until_ready(self, file_id: str) -> None:
        """Slack looks at a file after the upload is complete; a block may show it when its type is known."""
        for seconds in (*READY_WAITS, None):
            info = await self.call("files.info", file=file_id)
            if info.get("file", {}).get("mimetype"):
                return
            if seconds is not None:
                await self._sleep(seconds)
        raise UnknownFile("Slack has not taken in the uploaded picture yet.")

    async def channel_id(self, name: str) -> str:
        """The id of a channel by its name. Raises Rejected when the bot sees none of that name."""
        cursor: str | None = None
        for _ in range(_PAGES):
            page = await self.call(
                "conversations.list",
                types="public_channel,private_channel",
                exclude_archived=True,
                limit=1000,
                cursor=cursor,
            )
            for channel in page.get("channels", []):
                if channel.get("name") == name or channel.get("name_normalized") == name:
                    return str(channel["id"])
            cursor = page.get("response_metadata", {}).get("next_cursor") or None
            if cursor is None:
                break
        raise Rejected(
            f"Slack shows the bot no channel called {name}. Check the option channel; "
            f"if it is a private one, invite the bot there first (/invite @Receiver) or give the channel's id."
        )

    async def _posted(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self.call(method, **arguments)
        except SlackError as exc:
            if exc.code == "invalid_blocks" and "slack file" in exc.details:
                raise UnknownFile("Slack does not show the uploaded picture.") from exc
            raise

    def _check_home(self, url: str) -> None:
        """The address for the bytes comes in an answer: only Slack's own hosts get the picture."""
        target, base = urlsplit(url), urlsplit(self._base)
        same = (target.scheme, target.netloc) == (base.scheme, base.netloc)
        if not same and not (target.scheme == "https" and f".{target.hostname or ''}".endswith(_HOMES)):
            raise ConnectionError(
                f"Slack named {target.hostname} as the place for the upload, which is none of its own."
            )


class SlackWebhook:
    """An incoming webhook: posts, and never learns what became of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, headers={"User-Agent": "imagine-receiver"})

    async def aclose(self) -> None:
        await self._client.aclose()

    async def post(self, payload: Mapping[str, Any]) -> None:
        """Raises as `SlackApi.call` does; the code is the text Slack answers with."""
        response = await _post(self._client, self._url, json=payload)
        text = response.text.strip()
        if response.status_code == 200 and text == "ok":
            return
        if text in _LIMITED:
            raise RetryLater.from_headers(response.headers, otherwise=RATE_SECONDS, reason="Slack is called too often")
        if text in REMEDIES:
            raise SlackError("the webhook", text)
        if response.status_code in (404, 410):
            raise Rejected(f"Slack answered {response.status_code} to the webhook: it was removed. {_WEBHOOK}.")
        raise ConnectionError(f"Slack answered {response.status_code} to the webhook, without a reason.")


async def _post(client: httpx.AsyncClient, url: str, **request: Any) -> httpx.Response:
    """Without the URL in what is raised: a webhook's is its secret."""
    try:
        response = await client.post(url, **request)
    except httpx.HTTPError as exc:
        raise ConnectionError(f"Slack could not be reached: {type(exc).__name__}.") from None
    if response.status_code == 429:
        raise RetryLater.from_headers(response.headers, otherwise=RATE_SECONDS, reason="Slack is called too often")
    return response


def _table(response: httpx.Response, method: str) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ConnectionError(f"Slack answered {response.status_code} to {method} with something that is no answer.")
    return answer


def _field(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _messages(answer: Mapping[str, Any]) -> str:
    """What Slack adds for developers: which scope is needed, which block is wrong."""
    metadata = answer.get("response_metadata") or {}
    messages = [str(text) for text in metadata.get("messages", [])]
    if needed := answer.get("needed"):
        messages.append(f"needed: {needed}")
    return "; ".join(messages)[:200]


async def _content(stored: StoredMedia) -> AsyncIterator[bytes]:
    """In blocks, the file open only while one is read: a cancelled upload leaves nothing open."""
    at = 0
    while block := await in_thread(_block, stored.path, at):
        yield block
        at += len(block)


def _block(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(_BLOCK)
