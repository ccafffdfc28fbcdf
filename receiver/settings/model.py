"""Declaration of every setting: name, type, default and help, and the tables made from it.

Plain pydantic and no `BaseSettings`: `Settings(...)` is a value and never reads the environment. A shell's variables
do not leak into tests, or into a program that uses Receiver as a library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator
from pydantic.fields import FieldInfo

from receiver.settings import kinds
from receiver.settings.kinds import Flag, Keep, Kind, KnownAs, Seconds, Secret, Size, Unset, Words

T = TypeVar("T")

DEFAULT_TO = "file:./outputs"
MEDIA_HOSTS = (
    "cdn.discordapp.com",
    "media.discordapp.net",
    "cdn.midjourney.com",
    "youchuan-imagine.oss-cn-shanghai.aliyuncs.com",
    "imagine-cdn.youchuan.cn",
)
_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
HANDLER_VARIABLES = ("SLACK_BOT_TOKEN", "DISCORD_WEBHOOK_URL")
"""Variables people already have for options of handlers. An option takes one with `KnownAs`."""
_SECRET_WORDS = ("token", "secret", "password", "key", "webhook", "authorization")
CONCURRENCY = 16
"""Deliveries at once to a destination that does not name a number."""
FEWER: Mapping[str, int] = dict.fromkeys(("chat", "command", "discord", "slack"), 4)
"""The same for handlers whose services allow few requests a second, or whose programs each take memory."""


PAGES = {
    **dict.fromkeys(("public_url",), "proxy"),
    **dict.fromkeys(("keys", "token_max_age", "confirm_within", "media_hosts"), "callbacks"),
    **dict.fromkeys(("to", "destinations"), "destinations"),
    **dict.fromkeys(("database", "engine"), "postgres"),
    **dict.fromkeys(("media", "media_cache", "media_cache_bytes"), "bucket"),
    **dict.fromkeys(("keep_callbacks", "keep_media", "keep_submissions"), "operate"),
    **dict.fromkeys(("disk", "host", "port", "max_connections"), "server"),
    "api_tokens": "http",
    "cron_secret": "functions",
    **dict.fromkeys(("metrics_token", "metrics_port"), "metrics"),
}
"""Setting → page of the handbook about it. Others are on `settings` alone."""


class Destination(BaseModel):
    """One configured use of a handler. `options` is the rest of its table, which the handler's own model checks."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Kind("a name of at most 40 characters from a-z, 0-9, - and _")] = Field(pattern=_NAME)
    handler: Annotated[str | None, Kind("the name of a handler, for instance file")] = None
    url: Annotated[str | None, Kind("a URL, for instance file:./outputs")] = Field(default=None, repr=False)
    progress: Annotated[bool, Kind("true or false")] = Field(
        default=False, description="Deliver progress too, not only the result."
    )
    events: Words = Field(default=(), description="Event types it gets: every decisive one if not given.")
    alerts: Annotated[bool, Kind("true or false")] = Field(
        default=False, description="Deliver the alerts about this installation (`receiver.*`) too."
    )
    actions: Words = Field(
        default=(), description="Provider actions whose tasks it gets, for instance `UPSCALE`: all if not given."
    )
    labels: Annotated[dict[str, str], Kind("a table of names and values")] = Field(
        default={}, description="Labels a submission must have. `*` and `?` in a value match anything."
    )
    concurrency: Annotated[int | None, Kind("a whole number from 1 to 64")] = Field(
        default=None,
        ge=1,
        le=64,
        description="Maximum number of deliveries that run there at once. If not given: "
        f"{CONCURRENCY}, but {', '.join(f'{number} for `{name}`' for name, number in FEWER.items())}.",
    )
    timeout: Seconds = Field(default=60.0, gt=0, description="Total time limit of one attempt.")
    options: dict[str, Any] = Field(default={}, repr=False)
    variables: dict[str, str] = Field(default={}, repr=False)
    """Values of the `HANDLER_VARIABLES` that are set."""


class Settings(BaseModel):
    """All settings, frozen. `load` makes one. Tests build one by hand."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    provider_url: kinds.BaseURL = Field(
        default="https://api.cometapi.com", repr=False, description="Base URL of the provider, or of a relay."
    )
    provider_key: Annotated[Secret, KnownAs("COMETAPI_KEY"), Unset("not set")] = Field(
        default=None, description="The provider's API key, from https://api.cometapi.com/console/token."
    )
    proxy: Annotated[kinds.Proxy, KnownAs("https_proxy"), KnownAs("HTTPS_PROXY"), Unset("none")] = Field(
        default=None,
        repr=False,
        description="HTTP proxy for an `https` provider. `none` goes without one although HTTPS_PROXY is set.",
    )
    no_proxy: Annotated[str, KnownAs("no_proxy"), KnownAs("NO_PROXY"), Unset("none")] = Field(
        default="", description="Hosts and domains that are reached without the proxy, separated by commas."
    )
    public_url: Annotated[
        str | None,
        AfterValidator(lambda value: value and kinds.check_origin_url(value)),
        Kind("for instance https://receiver.example.com", kinds.show_base_url),
        Unset("not set"),
    ] = Field(
        default=None,
        repr=False,
        description="URL at which the provider reaches `receiver serve`. "
        "Without it no callback comes, and results are polled.",
    )
    keys: Annotated[kinds.Secrets, Unset("made on first start, in <data>/keys")] = Field(
        default=(),
        description="Signing keys of at least 32 bytes, newest last, separated by spaces. The last signs, all verify.",
    )
    token_max_age: Seconds = Field(default=72 * 3600.0, gt=0, description="Maximum age of a callback URL.")
    data: kinds.Folder = Field(
        default=Path(".receiver"), description="Folder of the journal, archived pictures and keys."
    )
    database: Annotated[
        str | None,
        AfterValidator(lambda value: value and kinds.check_database(value)),
        Kind(
            "sqlite:PATH, for instance sqlite:/var/lib/receiver/journal.db, or postgresql://…", kinds.without_passwords
        ),
        KnownAs("DATABASE_URL"),
        Unset("sqlite:<data>/journal.db"),
    ] = Field(
        default=None,
        repr=False,
        description="The journal. `sqlite:PATH`, or `sqlite:///PATH` (relative, a fourth slash makes it absolute), "
        "is for one process. `postgresql://…` or `postgres://…` is for many processes on many machines.",
    )
    database_connections: int = Field(
        default=5, ge=2, le=100, description="Maximum number of connections to PostgreSQL per process."
    )
    database_listen: Flag = Field(
        default=True,
        description="Wake other processes by LISTEN/NOTIFY. Set it to false behind a pooler in transaction mode: each "
        "process also polls once a second.",
    )
    database_statements: Flag = Field(
        default=True,
        description="Prepare statements on PostgreSQL and set up connections. Set it to false behind a pooler.",
    )
    database_migrate: Flag = Field(
        default=True, description="Migrate PostgreSQL's tables at the start. If false, only `receiver migrate` does."
    )
    engine: Flag = Field(
        default=True,
        description="Run the engine, which polls and delivers, inside `receiver serve`. If false, on PostgreSQL, "
        "`receiver worker` runs it.",
    )
    disk: Annotated[Literal["auto", "persistent", "network"], BeforeValidator(kinds.lower)] = Field(
        default="auto",
        description="`persistent`: the data folder and the database are on a volume that outlives restarts, "
        "on a platform whose disk is otherwise lost. `network`: the same, and a network file system is accepted, where "
        "SQLite cannot guarantee that written data lasts.",
    )
    to: Annotated[kinds.URLs, Unset(DEFAULT_TO)] = Field(
        default="", repr=False, description="Destination URLs separated by spaces. `$VAR` is replaced."
    )
    destinations: Annotated[dict[str, Destination], Kind("tables [destinations.NAME]"), Unset("none")] = Field(
        default={}, description="More destinations: a table `[destinations.NAME]` each, or one variable per option."
    )
    confirm_within: Seconds = Field(
        default=30.0,
        ge=0,
        description="Time to confirm a result that only a callback reports with the provider. 0 trusts it.",
    )
    poll_interval: Seconds = Field(
        default=15.0,
        gt=0,
        description="Longest interval between polls of a running task, and the silence after a callback before one. "
        "Near its usual end a task is polled every 2 s.",
    )
    polls_per_minute: int = Field(
        default=120,
        ge=6,
        le=6000,
        description="Maximum number of requests per minute by which tasks are polled. One asks about up to 50 tasks.",
    )
    deadline: Seconds = Field(default=4200.0, gt=0, description="Age at which a task without an end counts as lost.")
    submit_timeout: Seconds = Field(default=75.0, gt=0, description="Total time limit of one submit call.")
    media: Annotated[
        str | None,
        AfterValidator(lambda value: value and kinds.check_media(value)),
        Kind("a folder, or a bucket such as s3://acme/pictures"),
        Unset("<data>/media, or media in the journal's bucket"),
    ] = Field(
        default=None,
        repr=False,
        description="Place of archived pictures: a folder, or `s3://BUCKET/FOLDER` (also `gs:`, `az:`), "
        "which several machines can share. Needs the extra `s3`.",
    )
    media_cache: Annotated[kinds.Folder | None, Kind("a folder this user may write"), Unset("<data>/cache")] = Field(
        default=None, description="Local cache of pictures from a bucket. It may be deleted at any time."
    )
    media_cache_bytes: Size = Field(
        default=2**30, gt=0, description="Maximum size of that cache, without files being read."
    )
    media_hosts: Annotated[kinds.Hosts, Unset("none")] = Field(
        default=(),
        description="Further hosts pictures may come from, beside "
        f"{', '.join(f'`{host}`' for host in MEDIA_HOSTS)} and the provider's own. "
        "An exact origin such as `http://host:port` may also be private or without TLS.",
    )
    media_proxy: Flag = Field(
        default=False,
        description="Fetch `https` pictures through the proxy, too. Their hosts are still looked up here, and the "
        "proxy is asked for the public address that was found.",
    )
    media_max_bytes: Size = Field(
        default=256 * 2**20, gt=0, description="Maximum size of a picture or video to archive."
    )
    media_timeout: Seconds = Field(default=120.0, gt=0, description="Total time limit of one download.")
    keep_callbacks: Keep = Field(
        default=7 * 86400.0, description="Time to keep the text of a callback. `forever` is possible here and below."
    )
    keep_media: Keep = Field(
        default=30 * 86400.0,
        description="Time to keep archived files after their submission, unless a delivery is outstanding. "
        "Files at destinations are never deleted.",
    )
    keep_submissions: Keep = Field(
        default=90 * 86400.0,
        description="Time to keep a submission with its events, deliveries and attempts, "
        "unless a delivery is outstanding.",
    )
    host: Annotated[
        str | None, Kind("an address, for instance 127.0.0.1"), Unset("127.0.0.1, or 0.0.0.0 if PORT is set")
    ] = Field(
        default=None, min_length=1, description="Address that `receiver serve` listens on. `::` takes IPv6 and IPv4."
    )
    port: Annotated[int, Kind("a port number, for instance 8000"), KnownAs("PORT")] = Field(
        default=8000, ge=0, le=65535, description="Port that `receiver serve` listens on. 0 takes a free one."
    )
    max_connections: int = Field(
        default=1000,
        ge=16,
        le=100_000,
        description="Maximum number of open connections of `receiver serve`. More get 503, except health checks.",
    )
    api_tokens: Annotated[kinds.ApiTokens, Unset("none: no HTTP API")] = Field(
        default={},
        description="Callers of the HTTP API: `NAME:SECRET`, separated by spaces, or a table `[api_tokens]`. "
        "A secret has at least 16 characters. The log names the caller.",
    )
    page: Flag = Field(
        default=True,
        description="Show the page of pictures and deliveries. Without `page_users` only on loopback, for who has the "
        "printed URL.",
    )
    page_users: Annotated[kinds.PageUsers, Unset("none: the page is on loopback only")] = Field(
        default={},
        description="Users of the page: `NAME:ROLE:SECRET`, separated by spaces, or a table `[page_users]` with "
        '`NAME = "ROLE:SECRET"`. A viewer reads, a maker also spends, an operator also replays and erases.',
    )
    page_user_header: Annotated[str | None, Unset("not set")] = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]{1,64}$",
        description="Request header with the name of a user, set by a proxy that authenticates. The proxy must remove "
        "it from requests of strangers.",
    )
    cron_secret: Annotated[Secret, KnownAs("CRON_SECRET"), Unset("none: no ticks over HTTP")] = Field(
        default=None, description="Bearer token that a scheduler sends to `/tick` of a function."
    )
    metrics_token: Annotated[Secret, Unset("not set")] = Field(
        default=None,
        min_length=16,
        description="Bearer token for `/metrics`, of at least 16 characters. `receiver serve` has that address only "
        "with it.",
    )
    metrics_port: Annotated[int | None, Kind("a port number, for instance 9464"), Unset("none")] = Field(
        default=None,
        ge=0,
        le=65535,
        description="Further port of `receiver serve` and `receiver worker`, with `/metrics` alone. It is open to all "
        "that reach it, unless there is a token.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(kinds.lower)] = Field(
        default="info", description="Lowest level of log lines to write."
    )
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(kinds.lower)] = Field(
        default="auto", description="Format of log lines. `auto` is console on a terminal and JSON elsewhere."
    )

    _context: dict[str, dict[str, str]] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        """Keep `load`'s context: the sources of values, the platform's variables and the handlers' variables."""
        self._context.update(context or {})

    @field_validator("destinations", mode="before")
    @classmethod
    def _tables(cls, tables: object) -> object:
        """Shape `[destinations.NAME]` tables as `Destination`. Keys that it does not declare are options."""
        if not isinstance(tables, dict):
            return tables
        ours = Destination.model_fields.keys() - {"name", "options", "variables"}
        shaped: dict[object, object] = {}
        for name, table in tables.items():
            if isinstance(table, dict):
                options = {key: value for key, value in table.items() if key not in ours}
                table = {**{key: table[key] for key in ours & table.keys()}, "name": name, "options": options}  # noqa: PLW2901
            shaped[name] = table
        return shaped

    @property
    def sources(self) -> dict[str, str]:
        """Source of each value: `flag`, `environment COMETAPI_KEY`, `receiver.toml`, `default`, …

        Each destination has an entry of its own, `destinations.NAME`.
        """
        return {**dict.fromkeys(type(self).model_fields, "default"), **self._context.get("sources", {})}

    @property
    def files(self) -> tuple[str, ...]:
        """Files that were read."""
        return tuple(self._context.get("files", ()))

    @property
    def platform_variables(self) -> dict[str, str]:
        """Variables that identify a known platform. Empty elsewhere."""
        return dict(self._context.get("platform", {}))

    @property
    def database_kind(self) -> kinds.DatabaseKind:
        """Kind of database of the journal."""
        return "sqlite" if self.database is None else kinds.database_kind(self.database)

    @property
    def database_path(self) -> Path:
        """SQLite file of the journal. Raises ValueError for another kind of database."""
        return self.data / "journal.db" if self.database is None else kinds.sqlite_path(self.database)

    @property
    def database_shown(self) -> str:
        """URL of the journal, without passwords."""
        if self.database_kind == "sqlite":
            return f"sqlite:{self.database_path}"
        return kinds.without_passwords(self.database or "")

    @property
    def media_place(self) -> str:
        """Place of the media store: a folder, or a bucket's URL."""
        if self.media is not None:
            return self.media
        if self.database is not None and self.database_kind == "bucket":
            place, mark, query = self.database.partition("?")
            return f"{place.rstrip('/')}/media{mark}{query}"
        return str(self.data / "media")

    @property
    def media_cache_folder(self) -> Path:
        """Local cache folder of a bucket's files."""
        return self.media_cache or self.data / "cache"

    @property
    def bind_host(self) -> str:
        """Address to listen on. A platform that sets PORT connects from outside."""
        if self.host is not None:
            return self.host
        return "0.0.0.0" if self.sources["port"] == "environment PORT" else "127.0.0.1"  # noqa: S104

    @property
    def metrics(self) -> bool:
        """True if this process counts."""
        return self.metrics_token is not None or self.metrics_port is not None

    @property
    def users(self) -> dict[str, tuple[str, str]]:
        """Users of the page: name → role and secret."""
        texts = {name: text.get_secret_value().partition(":") for name, text in self.page_users.items()}
        return {name: (role, secret) for name, (role, _, secret) in texts.items()}

    def resolved_destinations(self) -> tuple[Destination, ...]:
        """Return every destination: `to` named by scheme, then the tables, or the folder `outputs` if none is set."""
        taken = set(self.destinations)
        listed = []
        for url in self.to.split():
            scheme = "".join(char if char.isalnum() else "-" for char in url.partition(":")[0].lower())[:32]
            name, number = scheme, 1
            while name in taken:
                number += 1
                name = f"{scheme}-{number}"
            taken.add(name)
            listed.append(Destination(name=name, url=url))
        found = (*listed, *self.destinations.values()) or (Destination(name="file", url=DEFAULT_TO),)
        return tuple(item.model_copy(update={"variables": dict(self._context.get("variables", {}))}) for item in found)

    def secret_values(self) -> tuple[str, ...]:
        """Return every secret in the settings, and variables named like one, to be redacted wherever they come back."""
        keys = (*self.keys, self.provider_key, *self.api_tokens.values(), self.cron_secret, self.metrics_token)
        secrets = [key.get_secret_value() for key in keys if key is not None]
        secrets += [secret for _, secret in self.users.values()]
        for text in (*self._context.get("variables", {}).values(), *self._context.get("secrets", {}).values()):
            secrets += [text, *kinds.destination_secrets(text)]
        for url in (self.database, self.proxy, self.public_url, self.provider_url, self.media):
            secrets += kinds.url_secrets(url or "")
        for destination in self.resolved_destinations():
            secrets += kinds.destination_secrets(destination.url or "")
            secrets += _secret_options(destination.options)
        return tuple(dict.fromkeys(secrets))


def _secret_options(options: Mapping[str, Any], *, every: bool = False) -> list[str]:
    """Return the texts of options that are named like a secret, and every header and variable."""
    found = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            found += _secret_options(value, every=name in ("environment", "headers"))
        elif every or any(word in name.lower() for word in _SECRET_WORDS):
            texts = value if isinstance(value, list | tuple) else [value]
            found += [text for text in texts if isinstance(text, str)]
        elif isinstance(value, str) and "://" in value:
            found += kinds.destination_secrets(value)
    return found


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One setting: its name in TOML, its variable, other names of the variable, its default, its help."""

    name: str
    env: str
    aliases: tuple[str, ...]
    default: str
    help: str


def describe() -> list[SettingDoc]:
    """Return all settings, in the order of their declaration."""
    return [
        SettingDoc(
            name,
            f"RECEIVER_{name.upper()}" + ("__NAME__OPTION" if name == "destinations" else ""),
            tuple(marker.name for marker in info.metadata if isinstance(marker, KnownAs)),
            _shown(info, info.default),
            info.description or "",
        )
        for name, info in Settings.model_fields.items()
    ]


def show(settings: Settings) -> list[tuple[str, str, str]]:
    """Return name, value and source of each setting, then of each destination. Secrets are masked."""
    resolved = {
        "host": settings.bind_host,
        "database": settings.database_shown,
        "media": kinds.without_passwords(settings.media_place),
        "media_cache": str(settings.media_cache_folder),
    }
    rows = [
        (name, resolved.get(name) or _shown(info, getattr(settings, name)), settings.sources[name])
        for name, info in Settings.model_fields.items()
        if name != "destinations"
    ]
    for name, item in settings.destinations.items():
        parts = [f"handler {item.handler}"] if item.handler else []
        parts += [kinds.show_url(item.url)] if item.url else []
        # Options by name only: the handler alone knows which of them are secret.
        parts += [f"options {' '.join(sorted(item.options))}"] if item.options else []
        rows.append((f"destinations.{name}", ", ".join(parts), settings.sources.get(f"destinations.{name}", "default")))
    return rows


def _shown(info: FieldInfo, value: Any) -> str:
    unset, kind = _marker(info, Unset), _marker(info, Kind)
    if unset is not None and value in (None, "", (), {}):
        return unset.text
    return kind.show(value) if kind else str(value)


def _marker(info: FieldInfo, kind: type[T]) -> T | None:
    return next((marker for marker in info.metadata if isinstance(marker, kind)), None)
