"""From a prompt to posts: the simulated provider, the engine, and the strict Slack and Discord servers, over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

from discords import channel
from flows import world
from slacks import TOKEN, workspace
from waiting import PATIENCE


async def test_a_task_and_its_follow_up_are_one_conversation(tmp_path: Path) -> None:
    """In Slack one post from progress to result, with the follow-up in its thread; in Discord a post for each; the
    journal's own receipts carry both, and every picture is what was archived."""
    async with workspace() as slack, channel() as discord, asyncio.timeout(PATIENCE):
        team = {"handler": "slack", "channel": "pictures", "token": TOKEN, "api_url": slack.api, "progress": True}
        other = {"handler": "discord", "webhook_url": discord.hook}
        async with world(tmp_path, destinations={"team": team, "other": other}) as here:
            grid = await here.rest((await here.submit()).id)
            large = await here.rest((await here.receiver.submissions.follow_up(grid, "U2")).id)
    (post,) = slack.top()
    archived = [item.size for row in (grid, large) for item in row.media]
    assert post.edits > 0
    assert {reply.thread_ts for reply in slack.replies()} == {next(iter(slack.messages))}
    assert [len(file.data) for file in slack.files.values()] == archived
    assert [len(data) for message in discord.messages.values() for data in message.files.values()] == archived
