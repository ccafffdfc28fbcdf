"""The settings themselves: name, type, default and help of each, once.

Plain pydantic and no `BaseSettings`: `Settings(...)` is a value like any other and never looks at the environment,
so that nobody's shell leaks into a test or into a program that uses Receiver as a library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
)

from receiver.settings.databases import (
    DatabaseKind,
    check_database,
    database_kind,
    database_secrets,
    show_database,
    sqlite_path,
)
from receiver.settings.kinds import (
    ApiTokens,
    BaseURL,
    Flag,
    Folder,
    Hosts,
    Keep,
    Kind,
    KnownAs,
    Seconds,
    Secret,
    Secrets,
    Size,
    Unset,
    URLs,
    Words,
    check_callback_base,
    check_folder,
    check_media,
    lower,
    show_base_url,
)

DEFAULT_TO = "file:./outputs"
DEFAULT_MEDIA_HOSTS = (
    "cdn.discordapp.com",
    "media.discordapp.net",
    "cdn.midjourney.com",
    "youchuan-imagine.oss-cn-shanghai.aliyuncs.com",
    "imagine-cdn.youchuan.cn",
)
_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
HANDLER_VARIABLES = ("SLACK_BOT_TOKEN", "DISCORD_WEBHOOK_URL")
"""Names people already have for options of handlers; a handler's option says with `KnownAs` that it takes one."""
_SECRET_WORDS = ("token", "secret", "password", "key", "webhook", "authorization")


class Destination(BaseModel):
    """One configured use of a handler. `options` is everything else in its table; the handler's own model checks it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Kind("a name of at most 40 characters from a-z, 0-9, - and _")] = Field(pattern=_NAME)
    handler: Annotated[str | None, Kind("the name of a handler, for instance file")] = None
    url: Annotated[str | None, Kind("a URL, for instance file:./outputs")] = Field(default=None, repr=False)
    progress: Annotated[bool, Kind("true or false")] = Field(
        default=False, description="Whether progress is delivered too, not only the result."
    )
    events: Words = Field(default=(), description="Event types it gets; every decisive one if not given.")
    actions: Words = Field(
        default=(), description="Provider actions whose tasks it gets, for instance `UPSCALE`; all if not given."
    )
    labels: Annotated[dict[str, str], Kind("a table of names and values")] = Field(
        default={}, description="Labels a submission must have; `*` and `?` in a value stand for anything."
    )
    concurrency: Annotated[int, Kind("a whole number from 1 to 64")] = Field(
        default=4, ge=1, le=64, description="How many deliveries may run there at once."
    )
    timeout: Seconds = Field(default=60.0, gt=0, description="How long one attempt may take in all.")
    options: dict[str, Any] = Field(default={}, repr=False)
    variables: dict[str, str] = Field(default={}, repr=False)
    """Those of `HANDLER_VARIABLES` that are set."""


class Settings(BaseModel):
    """All settings, frozen. Get one from `load`; build one by hand in tests."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    provider_url: BaseURL = Field(
        default="https://api.cometapi.com", description="The provider, or a relay in its place."
    )
    provider_key: Annotated[Secret, KnownAs("COMETAPI_KEY"), Unset("not set")] = Field(
        default=None, description="The provider's API key, from https://api.cometapi.com/console/token."
    )
    public_url: Annotated[
        str | None,
        AfterValidator(lambda value: value and check_callback_base(value)),
        Kind("for instance https://receiver.example.com", show_base_url),
        Unset("not set"),
    ] = Field(
        default=None,
        description="Where the provider can reach `receiver serve`. "
        "Without it nothing calls back, and results are polled.",
    )
    keys: Annotated[Secrets, Unset("made on first start, in <data>/keys")] = Field(
        default=(),
        description="Signing keys of at least 32 bytes, newest last, separated by spaces: the last signs, all verify.",
    )
    token_max_age: Seconds = Field(default=72 * 3600.0, gt=0, description="How long a callback URL stays valid.")
    data: Folder = Field(
        default=Path(".receiver"), description="The folder for the journal, archived pictures and keys."
    )
    database: Annotated[
        str | None,
        AfterValidator(lambda value: value and check_database(value)),
        Kind(
            "sqlite:PATH, for instance sqlite:/var/lib/receiver/journal.db, or postgresql://…",
            show_database,
        ),
        KnownAs("DATABASE_URL"),
        Unset("sqlite:<data>/journal.db"),
    ] = Field(
        default=None,
        repr=False,
        description="The journal: `sqlite:PATH`, or `sqlite:///PATH` (relative; a fourth slash makes it absolute), for "
        "one process; `postgresql://…` or `postgres://…` for any number on any number of machines.",
    )
    database_connections: int = Field(
        default=5, ge=2, le=100, description="How many connections each process has to PostgreSQL at most."
    )
    database_listen: Flag = Field(
        default=True,
        description="Whether processes wake each other by LISTEN/NOTIFY. Off behind a pooler in transaction mode; each "
        "looks once a second in any case.",
    )
    database_statements: Flag = Field(
        default=True,
        description="Whether statements are prepared on PostgreSQL, and connections set up. Off behind a pooler in "
        "transaction mode.",
    )
    database_migrate: Flag = Field(
        default=True,
        description="Whether a start brings PostgreSQL's tables up to date; else only `receiver migrate` does.",
    )
    engine: Flag = Field(
        default=True,
        description="Whether `receiver serve` has the engine inside, which polls and delivers. Without, on PostgreSQL, "
        "`receiver worker` does that.",
    )
    disk: Annotated[
        Literal["auto", "persistent", "network"], BeforeValidator(lower), Kind("auto, persistent or network")
    ] = Field(
        default="auto",
        description="`persistent` says that the data folder and the database lie on a volume that outlives "
        "restarts, on a platform where the disk otherwise vanishes. `network` says so, too, and takes a network file "
        "system, where SQLite cannot promise to keep what it wrote.",
    )
    to: Annotated[URLs, Unset(DEFAULT_TO)] = Field(
        default="", repr=False, description="Destination URLs separated by spaces; `$VAR` is filled in."
    )
    destinations: Annotated[dict[str, Destination], Kind("tables [destinations.NAME]"), Unset("none")] = Field(
        default={}, description="Further destinations: a table `[destinations.NAME]` each, or one variable per option."
    )
    confirm_within: Seconds = Field(
        default=30.0,
        ge=0,
        description="How long a result only a callback reports is checked with the provider; 0 trusts it.",
    )
    poll_interval: Seconds = Field(default=15.0, gt=0, description="How often a running task is asked after.")
    deadline: Seconds = Field(default=4200.0, gt=0, description="When a task without an end counts as lost.")
    submit_timeout: Seconds = Field(default=75.0, gt=0, description="How long one submit call may take in all.")
    media: Annotated[
        str | None,
        AfterValidator(lambda value: value and check_media(value)),
        Kind("a folder, or a bucket such as s3://acme/pictures"),
        Unset("<data>/media, or media in the journal's bucket"),
    ] = Field(
        default=None,
        description="Where archived pictures are kept: a folder, or `s3://BUCKET/FOLDER` (also `gs:`, `az:`), "
        "which several machines can share. Extra `s3`.",
    )
    media_cache: Annotated[
        Path | None,
        AfterValidator(lambda value: value and check_folder(value)),
        Kind("a folder this user may write"),
        Unset("<data>/cache"),
    ] = Field(
        default=None,
        description="Where pictures from a bucket are brought before they are read; it may vanish at any time.",
    )
    media_cache_bytes: Size = Field(
        default=2**30, gt=0, description="How much that folder holds, but for what is being read."
    )
    media_hosts: Hosts = Field(
        default=DEFAULT_MEDIA_HOSTS,
        description="Hosts pictures may come from; setting it replaces the list. "
        "An exact origin such as `http://host:port` may also be private or without TLS.",
    )
    media_max_bytes: Size = Field(
        default=256 * 2**20, gt=0, description="The largest picture or video that is archived."
    )
    media_timeout: Seconds = Field(default=120.0, gt=0, description="How long one download may take in all.")
    keep_callbacks: Keep = Field(
        default=7 * 86400.0,
        description="How long the text of a callback is kept; `forever` is possible here and below.",
    )
    keep_media: Keep = Field(
        default=30 * 86400.0,
        description="How long archived files are kept after their submission, where nothing is owed any more. "
        "What destinations have is theirs.",
    )
    keep_submissions: Keep = Field(
        default=90 * 86400.0,
        description="How long a submission is kept that nothing is owed of, with its events, deliveries and attempts.",
    )
    host: Annotated[
        str | None, Kind("an address, for instance 127.0.0.1"), Unset("127.0.0.1, or 0.0.0.0 if PORT is set")
    ] = Field(default=None, min_length=1, description="The address `receiver serve` listens on.")
    port: Annotated[int, Kind("a port number, for instance 8000"), KnownAs("PORT")] = Field(
        default=8000, ge=0, le=65535, description="The port `receiver serve` listens on; 0 takes a free one."
    )
    max_connections: int = Field(
        default=1000,
        ge=16,
        le=100_000,
        description="How many connections `receiver serve` keeps open; beyond that it answers 503, but health checks.",
    )
    api_tokens: Annotated[ApiTokens, Unset("none: no HTTP API")] = Field(
        default={},
        description="Who may submit over HTTP: `NAME:SECRET`, separated by spaces, or a table `[api_tokens]`. "
        "A secret has at least 16 characters; the log names its caller.",
    )
    cron_secret: Annotated[Secret, KnownAs("CRON_SECRET"), Unset("none: no ticks over HTTP")] = Field(
        default=None,
        description="What a scheduler sends to `/tick` of a function (see Serverless), as a bearer token.",
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(lower), Kind("debug, info, warning or error")
    ] = Field(default="info", description="The least important log lines that are written.")
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(lower), Kind("auto, json or console")] = (
        Field(default="auto", description="`auto` is readable on a terminal and JSON lines elsewhere.")
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _platform: dict[str, str] = PrivateAttr(default_factory=dict)
    _variables: dict[str, str] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        """Takes along where values came from, which platform this is, and the variables of handlers; `load` passes
        them as context."""
        known = context or {}
        self._sources.update(known.get("sources", {}))
        self._platform.update(known.get("platform", {}))
        self._variables.update(known.get("variables", {}))

    @field_validator("destinations", mode="before")
    @classmethod
    def _tables(cls, tables: object) -> object:
        if not isinstance(tables, dict):
            return tables
        return {name: _table(name, table) for name, table in tables.items()}

    @property
    def sources(self) -> dict[str, str]:
        """Where each value came from: `flag`, `environment COMETAPI_KEY`, `receiver.toml`, `default`, …

        Each destination has an entry of its own, `destinations.NAME`.
        """
        return {**dict.fromkeys(type(self).model_fields, "default"), **self._sources}

    @property
    def platform_variables(self) -> dict[str, str]:
        """The variables by which a known platform showed itself; empty elsewhere."""
        return dict(self._platform)

    @property
    def database_kind(self) -> DatabaseKind:
        """What keeps the journal."""
        return "sqlite" if self.database is None else database_kind(self.database)

    @property
    def database_path(self) -> Path:
        """The SQLite file of the journal. Raises ValueError where it is kept elsewhere."""
        return self.data / "journal.db" if self.database is None else sqlite_path(self.database)

    @property
    def database_shown(self) -> str:
        """What keeps the journal, for a person: without a password."""
        if self.database_kind == "sqlite":
            return f"sqlite:{self.database_path}"
        return show_database(self.database or "")

    @property
    def media_place(self) -> str:
        """The media store: a folder, or a bucket's URL."""
        if self.media is not None:
            return self.media
        if self.database is not None and self.database_kind == "bucket":
            place, mark, query = self.database.partition("?")  # where there is no disk that stays
            return f"{place.rstrip('/')}/media{mark}{query}"
        return str(self.data / "media")

    @property
    def media_cache_folder(self) -> Path:
        """Where a bucket's files are brought."""
        return self.media_cache or self.data / "cache"

    @property
    def bind_host(self) -> str:
        """Where to listen: a platform that hands out PORT expects to reach us from outside."""
        if self.host is not None:
            return self.host
        return "0.0.0.0" if self.sources["port"] == "environment PORT" else "127.0.0.1"  # noqa: S104 the platform's wish

    def resolved_destinations(self) -> tuple[Destination, ...]:
        """Every destination: those of `to`, named by scheme, then the tables; the folder `outputs` if none is given."""
        taken = set(self.destinations)
        listed = []
        for url in self.to.split():
            name = _free_name(url, taken)
            taken.add(name)
            listed.append(Destination(name=name, url=url))
        found = (*listed, *self.destinations.values()) or (Destination(name="file", url=DEFAULT_TO),)
        return tuple(item.model_copy(update={"variables": dict(self._variables)}) for item in found)

    def secret_values(self) -> tuple[str, ...]:
        """Every secret known here, for the logs to leave out."""
        keys = (*self.keys, self.provider_key, *self.api_tokens.values(), self.cron_secret)
        secrets = [key.get_secret_value() for key in keys if key is not None] + list(self._variables.values())
        secrets += database_secrets(self.database) if self.database is not None else []
        for destination in self.destinations.values():
            for name, value in destination.options.items():
                if any(word in name.lower() for word in _SECRET_WORDS):
                    secrets += _texts(value)
        return tuple(secrets)


def _texts(value: object) -> list[str]:
    """A secret option may be one text or several."""
    if isinstance(value, list | tuple):
        return [item for item in value if isinstance(item, str)]
    return [value] if isinstance(value, str) else []


def _table(name: object, table: object) -> object:
    """A `[destinations.NAME]` table in the shape of `Destination`: what that does not know is an option."""
    if not isinstance(table, dict):
        return table
    ours = {"handler", "url", "progress", "events", "actions", "labels", "concurrency", "timeout"}
    known = {key: value for key, value in table.items() if key in ours}
    return {**known, "name": name, "options": {key: value for key, value in table.items() if key not in ours}}


def _free_name(url: str, taken: set[str]) -> str:
    scheme = "".join(char if char.isalnum() else "-" for char in url.partition(":")[0].lower())[:32]
    number = 1
    while (name := scheme if number == 1 else f"{scheme}-{number}") in taken:
        number += 1
    return name
