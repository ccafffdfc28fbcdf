"""Slack's Block Kit (docs.slack.dev/reference/block-kit): the posts, block by block.

Words of users and of the provider go into `plain_text` objects only, with `&`, `<` and `>` escaped as Slack asks for
(docs.slack.dev/messaging/formatting-message-text): there they mention nobody and link nowhere. `mrkdwn` holds our own
words alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from receiver.handlers.posts import Mood, Post, clean, cut

Block = dict[str, Any]

PROMPT_LENGTH = 600
"""Characters of a prompt in the channel; the whole one is in the details."""
_SECTION, _FIELD, _ALT, _TEXT, _URL = 3000, 2000, 2000, 3000, 3000
_FIELDS = 10
_MARKS: dict[Mood, str] = {
    "waiting": ":hourglass_flowing_sand:",
    "asking": ":raised_hand:",
    "good": ":frame_with_picture:",
    "bad": ":x:",
}


def post_blocks(post: Post, pictures: Iterable[Block] = (), link: str | None = None) -> list[Block]:
    """What stands in the channel: title, prompt, picture, why it failed and what to change, facts."""
    blocks = [_markdown(f"{_MARKS[post.mood]} *{post.title}*")]
    if post.prompt:
        blocks.append(_plain(cut(post.prompt, PROMPT_LENGTH)))
    blocks += [_plain(f"{number}. {text}") for number, text in enumerate(post.texts[:8], 1)]
    blocks += pictures
    blocks += [_plain(text) for text in (post.why, post.what_to_do, post.remark) if text]
    if post.advice and post.command:
        blocks.append(_code(post.command))
    if link is not None and (address := _address(link)):
        blocks.append(_markdown(f"<{address}|Open the stored copy>"))
    if post.facts:
        blocks.append({"type": "context", "elements": [_text(post.facts, _FIELD)]})
    return blocks


def detail_blocks(post: Post, *, few: bool = False) -> list[Block]:
    """What stands in the thread: the whole prompt where the channel has only its beginning, the details unless only a
    few are wanted, and how to go on."""
    blocks = [_plain(post.prompt)] if len(post.prompt) > PROMPT_LENGTH and not few else []
    if post.details and not few:
        fields = [_text(f"{name}\n{value}", _FIELD) for name, value in post.details[:_FIELDS]]
        blocks.append({"type": "section", "fields": fields})
    if post.command and not post.advice:
        blocks += [_plain(f"Next steps: {post.steps}"), _code(post.command)]
    return blocks


def uploaded(file_id: str, alt_text: str, *, title: str = "") -> Block:
    """A picture that was uploaded to Slack. Its title stands above it, and is ours."""
    block = {"type": "image", "slack_file": {"id": file_id}, "alt_text": cut(alt_text, _ALT)}
    return block | {"title": {"type": "plain_text", "text": title, "emoji": False}} if title else block


def linked_picture(url: str, alt_text: str) -> Block | None:
    """A picture Slack fetches by itself; None where the link is nothing Slack could fetch."""
    return {"type": "image", "image_url": url, "alt_text": cut(alt_text, _ALT)} if len(url) <= _URL else None


def fallback(post: Post) -> str:
    """The post in one line, for notifications."""
    said = post.reason or post.prompt
    return escape(f"{post.title}: {said}" if said else post.title, _TEXT)


def escape(text: str, length: int) -> str:
    """The three characters Slack reads as markup, escaped; at most `length` characters long afterwards."""
    pieces: Sequence[str] = [_ESCAPES.get(character, character) for character in text]
    if sum(map(len, pieces)) <= length:
        return "".join(pieces)
    kept, room = [], length - 1
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        kept.append(piece)
    return "".join(kept) + "…"


_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def _text(text: str, length: int) -> Block:
    return {"type": "plain_text", "text": escape(clean(text), length), "emoji": False}


def _plain(text: str) -> Block:
    return {"type": "section", "text": _text(text, _SECTION)}


def _markdown(text: str) -> Block:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _code(command: str) -> Block:
    """A command of ours. A button in its place would need a server that Slack can reach."""
    return _markdown(f"`{command}`")


def _address(link: str) -> str:
    """A link for `<…|…>`; "" where it would not fit."""
    address = link.replace("&", "&amp;").replace("<", "%3C").replace(">", "%3E").replace("|", "%7C").replace(" ", "%20")
    return address if len(address) <= _URL - 100 else ""
