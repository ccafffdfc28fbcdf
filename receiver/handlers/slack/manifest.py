"""The manifest of the Slack app a bot token comes from (docs.slack.dev/reference/app-manifest)."""

from __future__ import annotations

from typing import Any

SCOPES: dict[str, str] = {
    "channels:join": "join a public channel it is told to post to",
    "channels:read": "look up a public channel by its name",
    "chat:write": "post, and edit what it posted",
    "files:read": "see when an uploaded picture is ready",
    "files:write": "upload pictures",
    "groups:read": "look up a private channel it was invited to by its name",
}
"""What the bot may do, and what for. Nothing that reads what people write."""


def manifest(name: str = "Receiver") -> dict[str, Any]:
    """The manifest, to be pasted at https://api.slack.com/apps?new_app=1 → From a manifest."""
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
