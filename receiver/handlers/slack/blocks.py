"""Posts in Slack's Block Kit (docs.slack.dev/reference/block-kit).

Texts from outside go into `plain_text` objects only, with `&`, `<` and `>` escaped as Slack asks for
(docs.slack.dev/messaging/formatting-message-text). There they neither mention nor link. `mrkdwn` holds our own words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from receiver.handlers.posts import Mood, Post, clean, cut

Block = dict[str, Any]

PROMPT_LENGTH = 600
"""Characters of a prompt in the channel. The whole prompt is in the details."""
_SECTION, _FIELD, _ALT, _TEXT, _URL = 3000, 2000, 2000, 3000, 3000
_FIELDS = 10
MOST_BLOCKS = 50
TOTAL = 10_000
"""Characters of all blocks of a post as JSON. Slack documents no limit, and refused 11,300 characters of text
(github.com/slackapi/bolt-js/issues/2867)."""
_SHORTER = (3000, 1500, 700, 300, 100)
_HALF_ESCAPE = re.compile(r"&[a-z]{0,3}\Z")
_MARKS: dict[Mood, str] = {
    "waiting": ":hourglass_flowing_sand:",
    "asking": ":raised_hand:",
    "good": ":frame_with_picture:",
    "bad": ":x:",
}


def post_blocks(post: Post, pictures: Iterable[Block] = (), link: str | None = None) -> list[Block]:
    """Return the post in the channel: title, prompt, picture, why it failed and what to change, facts."""
    blocks = [_markdown(f"{_MARKS[post.mood]} *{post.title}*")]
    if post.prompt:
        blocks.append(_plain(cut(post.prompt, PROMPT_LENGTH)))
    blocks += [_plain(f"{number}. {text}") for number, text in enumerate(post.texts[:8], 1)]
    blocks += pictures
    blocks += [_plain(text) for text in (post.why, post.what_to_do, post.remark) if text]
    if post.advice and post.command:
        blocks.append(_code(post.command))
    if link is not None:
        address = link.replace("&", "&amp;")
        for character in "<>| ":
            address = address.replace(character, quote(character))
        if len(address) <= _URL - 100:
            blocks.append(_markdown(f"<{address}|Open the stored copy>"))
    if post.facts:
        blocks.append({"type": "context", "elements": [_text(post.facts, _FIELD)]})
    return blocks


def detail_blocks(post: Post, *, few: bool = False) -> list[Block]:
    """Return the reply in the thread: a long prompt as a whole, details and next step. With `few` the step only."""
    blocks = [_plain(post.prompt)] if len(post.prompt) > PROMPT_LENGTH and not few else []
    if post.details and not few:
        fields = [_text(f"{name}\n{value}", _FIELD) for name, value in post.details[:_FIELDS]]
        blocks.append({"type": "section", "fields": fields})
    if post.command and not post.advice:
        blocks += [_plain(f"Next steps: {post.steps}"), _code(post.command)]
    return blocks


def uploaded(file_id: str, alt_text: str, *, title: str = "") -> Block:
    """Return the block of a picture that was uploaded to Slack, with our own title above it."""
    block = {"type": "image", "slack_file": {"id": file_id}, "alt_text": cut(alt_text, _ALT)}
    return block | {"title": {"type": "plain_text", "text": title, "emoji": False}} if title else block


def linked_picture(url: str, alt_text: str) -> Block | None:
    """Return the block of a picture that Slack fetches by itself, or None if the link is too long for it."""
    return {"type": "image", "image_url": url, "alt_text": cut(alt_text, _ALT)} if len(url) <= _URL else None


def fitted(blocks: list[Block]) -> list[Block]:
    """Return blocks that are one post together: 50 at most, with the longest texts cut until all fit."""
    found = blocks[:MOST_BLOCKS]
    for length in _SHORTER:
        if len(json.dumps(found, ensure_ascii=False)) <= TOTAL:
            break
        found = [_shortened(block, length) for block in found]
    return found


def _shortened(part: Any, length: int) -> Any:
    if isinstance(part, list):
        return [_shortened(item, length) for item in part]
    if not isinstance(part, dict):
        return part
    ours = part.get("type") == "mrkdwn"
    return {
        name: _cut_escaped(value, length)
        if name in ("text", "alt_text") and isinstance(value, str) and not ours
        else _shortened(value, length)
        for name, value in part.items()
    }


def _cut_escaped(text: str, length: int) -> str:
    """Return an escaped text cut to a length, without half an escape at its end."""
    return text if len(text) <= length else _HALF_ESCAPE.sub("", text[: length - 1]) + "…"


def fallback(post: Post) -> str:
    """Return the post in one line, for notifications."""
    said = post.reason or post.prompt
    return escape(f"{post.title}: {said}" if said else post.title, _TEXT)


def escape(text: str, length: int) -> str:
    """Return a text with the three characters of Slack's markup escaped, at most `length` characters long."""
    escaped: Sequence[str] = [_ESCAPES.get(character, character) for character in text]
    if sum(map(len, escaped)) <= length:
        return "".join(escaped)
    kept, room = [], length - 1
    for part in escaped:
        room -= len(part)
        if room < 0:
            break
        kept.append(part)
    return "".join(kept) + "…"


_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def _text(text: str, length: int) -> Block:
    return {"type": "plain_text", "text": escape(clean(text), length), "emoji": False}


def _plain(text: str) -> Block:
    return {"type": "section", "text": _text(text, _SECTION)}


def _markdown(text: str) -> Block:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _code(command: str) -> Block:
    """Return a command as code. A button in its place would need a server that Slack can reach."""
    return _markdown(f"`{command}`")
