"""Slack's Web API (docs.slack.dev/apis/web-api), incoming webhooks, their errors, and the manifest of the app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from receiver.disk import in_thread
from receiver.handlers.answers import Answer, by_proxy, call, chat_client
from receiver.handlers.base import Rejected, RetryLater, StoredMedia
from receiver.handlers.posts import RATE_SECONDS, ChatError

READY_WAITS = (0.3, 0.7, 1.0, 2.0, 4.0, 8.0)
"""Seconds between checks of an uploaded file, which no block may show until Slack has processed it."""
SHOWN_WAITS = (1.0, 1.0, 2.0, 4.0)
"""Seconds between attempts to show it then."""
Sleep = Callable[[float], Awaitable[None]]
_BLOCK = 1024 * 1024
_PAGES = 20
"""Pages of a thousand channels each that are searched for a name."""
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
    **dict.fromkeys(("invalid_payload", "invalid_blocks", "invalid_blocks_format", "invalid_arguments"), _REPORT),
    **dict.fromkeys(("invalid_form_data", "msg_too_long", "msg_blocks_too_long", "no_text"), _REPORT),
}
"""Errors that no retry mends, and what a person does about them."""
FILE_REFUSED = frozenset(
    {"file_uploads_disabled", "file_uploads_except_images_disabled", "file_type_not_allowed"}
    | {"file_upload_size_restricted"}
)
"""Errors about a file, without which the post goes out all the same."""
_LIMITED = frozenset({"ratelimited", "rate_limited", "rollup_error", "message_limit_exceeded"})


class SlackError(ChatError):
    """Slack refused a call. `code` is its own name of the error, `details` is what it adds for developers."""

    def __init__(self, method: str, code: str, details: str = "") -> None:
        super().__init__(f"Slack answered {code} to {method}{f' ({details})' if details else ''}")
        self.code = code
        self.details = details
        self.remedy = REMEDIES.get(code)


class UnknownFile(ConnectionError):
    """Slack does not show an uploaded file in a post, or not yet."""


class SlackApi:
    """Calls of the Web API with a bot token, and of incoming webhooks, which need none."""

    def __init__(self, token: str, base_url: str, *, sleep: Sleep = asyncio.sleep) -> None:
        self._base = base_url.rstrip("/")
        self._sleep = sleep
        self._client = chat_client()
        # Not in the client's headers, because pictures are uploaded to another host, which must not see it.
        self._token = {"Authorization": f"Bearer {token}"}

    async def aclose(self) -> None:
        await self._client.aclose()

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call one method, its arguments as a form, which every method takes, with lists and tables as JSON.

        Raise SlackError if Slack refuses, RetryLater for too many calls, ConnectionError without a readable answer.
        """
        form = {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in arguments.items()
            if value is not None
        }
        response = await _post(self._client, f"{self._base}/{method}", data=form, headers=self._token)
        answer = response.object
        if answer is None or by_proxy("slack", response.body):
            raise ConnectionError(f"Slack answered {response.status} to {method}, but not in its own form.")
        if answer.get("ok") is True:
            return answer
        code = str(answer.get("error") or "an answer without a reason")
        if code in _LIMITED:
            raise _later(response)
        # For developers: which scope is needed, which block is wrong.
        messages = [str(text) for text in (answer.get("response_metadata") or {}).get("messages", [])]
        if needed := answer.get("needed"):
            messages.append(f"needed: {needed}")
        raise SlackError(method, code, "; ".join(messages)[:200])

    async def post(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method that posts or edits. Retry for some seconds if Slack refuses a block with an uploaded file,
        which it may do although `files.info` knows the file's type. Raise UnknownFile if it still does."""
        waits = iter(SHOWN_WAITS)
        while True:
            try:
                return await self.call(method, **arguments)
            except SlackError as exc:
                if exc.code != "invalid_blocks" or "slack file" not in exc.details:
                    raise
                if (seconds := next(waits, None)) is None:
                    raise UnknownFile("Slack does not show the uploaded picture.") from exc
            await self._sleep(seconds)

    async def permalink(self, channel: str, ts: str) -> str | None:
        """Return a post's URL, or None if Slack does not give it. The post is there all the same."""
        try:
            answer = await self.call("chat.getPermalink", channel=channel, message_ts=ts)
        except (SlackError, RetryLater, ConnectionError):
            return None
        return str(answer.get("permalink") or "") or None

    async def upload(self, stored: StoredMedia, name: str, alt_text: str) -> str:
        """Take the first two of three steps: ask for an upload URL, and send the bytes. Return the file's id."""
        place = await self.call(
            "files.getUploadURLExternal", filename=name, length=stored.media.size, alt_txt=alt_text[:1000] or None
        )
        url, file_id = str(place["upload_url"]), str(place["file_id"])
        target, base = urlsplit(url), urlsplit(self._base)
        same = (target.scheme, target.netloc) == (base.scheme, base.netloc)
        if not same and not (target.scheme == "https" and f".{target.hostname or ''}".endswith(_HOMES)):
            raise ConnectionError(
                f"Slack named {target.hostname} as the place for the upload, which is none of its own."
            )

        async def blocks() -> AsyncIterator[bytes]:
            # The file is open only while a block is read, so a cancelled upload leaves nothing open.
            at = 0
            while data := await in_thread(_block, stored.path, at):
                yield data
                at += len(data)

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(stored.media.size)}
        response = await _post(self._client, url, content=blocks(), headers=headers)
        if response.status != 200:
            raise ConnectionError(f"Slack's upload server answered {response.status} to the picture.")
        return file_id

    async def complete(self, files: list[tuple[str, str]], **where: Any) -> None:
        """Take the third step: name the uploaded files by id and title, and the channel to share them in, if any."""
        items = [{"id": file_id, "title": title} for file_id, title in files]
        await self.call("files.completeUploadExternal", files=items, **where)

    async def wait_until_ready(self, file_id: str) -> None:
        """Wait until Slack knows the type of an uploaded file, so that a block may show it. Raise UnknownFile."""
        for seconds in (*READY_WAITS, None):
            info = await self.call("files.info", file=file_id)
            if info.get("file", {}).get("mimetype"):
                return
            if seconds is not None:
                await self._sleep(seconds)
        raise UnknownFile("Slack has not processed the uploaded picture yet.")

    async def channel_id(self, name: str) -> str:
        """Return the id of a channel by its name. Raise Rejected if the bot sees no channel of that name."""
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

    async def post_to_webhook(self, url: str, payload: Mapping[str, Any]) -> None:
        """Post by an incoming webhook, which tells no id of a post. Raise as `call`, with Slack's text as the code."""
        response = await _post(self._client, url, json=payload)
        text, status = response.text, response.status
        if status == 200 and text == "ok":
            return
        if text in _LIMITED:
            raise _later(response)
        if text in REMEDIES:
            raise SlackError("the webhook", text)
        if status in (404, 410) and not by_proxy("slack webhook", response.body):
            raise Rejected(f"Slack answered {status} to the webhook: it was removed. {_WEBHOOK}.")
        raise ConnectionError(f"Slack answered {status} to the webhook, without a reason.")


async def _post(client: httpx.AsyncClient, url: str, **request: Any) -> Answer:
    response = await call(client, "Slack", "POST", url, **request)
    if response.status == 429:
        raise _later(response)
    return response


def _later(response: Answer) -> RetryLater:
    return RetryLater.from_headers(response.headers, otherwise=RATE_SECONDS, reason="Slack is called too often")


def _block(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(_BLOCK)


# The app

SCOPES: dict[str, str] = {
    "channels:join": "join a public channel it is told to post to",
    "channels:read": "look up a public channel by its name",
    "chat:write": "post, and edit what it posted",
    "files:read": "see when an uploaded picture is ready",
    "files:write": "upload pictures",
    "groups:read": "look up a private channel it was invited to by its name",
}
"""Permissions of the bot and their uses. None reads what people write."""


def manifest(name: str = "Receiver") -> dict[str, Any]:
    """Return the app's manifest (docs.slack.dev/reference/app-manifest)."""
    return {
        "display_information": {
            "name": name,
            "description": "Posts Midjourney results",
            "background_color": "#1f2937",
        },
        "features": {"bot_user": {"display_name": name, "always_online": False}},
        "oauth_config": {"scopes": {"bot": sorted(SCOPES)}},
        "settings": {
            "org_deploy_enabled": False,
            "socket_mode_enabled": False,
            "token_rotation_enabled": False,
        },
    }
