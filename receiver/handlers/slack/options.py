"""Options of a `slack` destination: a bot's token and a channel, or an incoming webhook."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote

from pydantic import Field, SecretStr, model_validator

from receiver.handlers.base import HandlerOptions
from receiver.settings.kinds import KnownAs


class SlackOptions(HandlerOptions):
    """Options of a `slack` destination."""

    channel: str | None = Field(
        None, description="Where to post: a channel's id, such as `C0123ABCD`, or its name. The bot joins it if it may."
    )
    token: Annotated[SecretStr | None, KnownAs("SLACK_BOT_TOKEN")] = Field(
        None, description="The app's bot token, `xoxb-…`; `SLACK_BOT_TOKEN` if not given."
    )
    webhook_url: SecretStr | None = Field(
        None,
        description="An incoming webhook, in place of channel and token. It cannot upload, so it needs `link`, and it "
        "posts ends only, without progress or threads.",
    )
    link: str | None = Field(
        None, description="Another destination's name: its link to its own copy is shown. Waits for it up to 60 s."
    )
    tiles: bool = Field(
        False, description="Whether the four pictures of a grid go into its thread, too. Needs the extra `images`."
    )
    details: bool = Field(True, description="Whether task, seed, final prompt and next steps go into the thread.")
    api_url: str = Field(
        "https://slack.com/api",
        pattern=r"^https?://[^\s?#]+$",
        description="Slack's API; GovSlack's is `https://slack-gov.com/api`.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> SlackOptions:
        if self.webhook_url is not None:
            if not re.match(r"https?://[^\s/]+/\S+\Z", self.webhook_url.get_secret_value()):
                raise ValueError(
                    "webhook_url is not the URL of an incoming webhook, https://hooks.slack.com/services/…"
                )
            if self.channel:
                raise ValueError("webhook_url has its own channel; leave out channel, or use a token")
            if not self.link:
                raise ValueError(
                    "a webhook cannot upload pictures. Set link to the name of a destination that stores them under a "
                    "public link, or use a token"
                )
            return self
        if self.token is None:
            raise ValueError("there is no bot token. Set SLACK_BOT_TOKEN; `receiver slack manifest` prints the app")
        if not self.token.get_secret_value().startswith("xox"):
            raise ValueError("token is no bot token, which begins with xoxb-")
        if not (self.channel or "").lstrip("#"):
            raise ValueError("channel is missing. Set it to the id or the name of the channel to post to")
        return self


def options_from_url(url: str) -> dict[str, Any]:
    """Options from `slack://C0123ABCD`, `slack://general?link=assets` or `slack:#general`."""
    place, _, query = url.partition(":")[2].partition("?")
    channel = unquote(place).strip("/")
    return ({"channel": channel} if channel else {}) | dict(parse_qsl(query))
