"""Declaration of every setting: name, kind, default and help, and the tables made from it.

`Settings(...)` is a value and never reads the environment. A shell's variables do not leak into tests, or into a
program that uses Receiver as a library. Plain dataclasses, because pydantic would take half of a command's start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from receiver.errors import SettingsError
from receiver.settings import kinds
from receiver.settings.kinds import FLAG, FOLDER, KEEP, SECRET, SIZE, TEXT, WORDS, Kind, Secret

DEFAULT_TO = "file:./outputs"
MEDIA_HOSTS = (
    "cdn.discordapp.com",
    "media.discordapp.net",
    "cdn.midjourney.com",
    "youchuan-imagine.oss-cn-shanghai.aliyuncs.com",
    "imagine-cdn.youchuan.cn",
)
_NAME = r"[a-z0-9][a-z0-9_-]{0,39}"
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


@dataclass(frozen=True, slots=True)
class Setting:
    """Declaration of one setting.

    Attributes:
        known_as: variables people already have for it.
        unset: words for the value None, or an empty one, in a table.
    """

    kind: Kind
    default: Any
    help: str
    known_as: tuple[str, ...]
    unset: str

    def show(self, value: Any) -> str:
        """Return a value as text."""
        return self.unset if self.unset and value in (None, "", (), {}) else self.kind.show(value)


def setting(
    kind: Kind,
    default: Any = MISSING,
    help: str = "",
    *,
    known_as: tuple[str, ...] = (),
    unset: str = "",
    shown: bool = True,
) -> Any:
    """Declare a setting as the field of a dataclass. One that is not `shown` is left out of reprs."""
    metadata = {"setting": Setting(kind, default, help, known_as, unset)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), repr=shown, metadata=metadata)
    return field(default=default, repr=shown, metadata=metadata)


def declared(model: type) -> dict[str, Setting]:
    """Return the settings of a dataclass by name, in the order of their declaration."""
    return {item.name: item.metadata["setting"] for item in fields(model) if item.metadata}


class WrongValues(SettingsError):
    """Values that their kinds do not accept: what is wrong with each and what to write, by its place."""

    def __init__(self, problems: Mapping[tuple[str, ...], tuple[str, str]]) -> None:
        super().__init__(
            "\n".join(f"{'.'.join(map(str, path))} {wrong(*problem)}" for path, problem in problems.items())
        )
        self.problems = problems


def wrong(reason: str, write: str) -> str:
    """Return the end of a sentence about a wrong value."""
    return f"is wrong: {reason}." + (f" Write {write}." if write else "")


@dataclass(frozen=True, kw_only=True)
class Values:
    """Settings, each read as its kind. None is accepted where it is the default."""

    def __post_init__(self) -> None:
        problems: dict[tuple[str, ...], tuple[str, str]] = {}
        for name, item in declared(type(self)).items():
            value = getattr(self, name)
            try:
                if value is not item.default:
                    object.__setattr__(self, name, item.kind.read(value))
            except WrongValues as exc:
                problems |= {(name, *path): problem for path, problem in exc.problems.items()}
            except ValueError as exc:
                problems[name,] = str(exc).rstrip("."), item.kind.write
        if problems:
            raise WrongValues(problems)


@dataclass(frozen=True, kw_only=True)
class Destination(Values):
    """One configured use of a handler. `options` is the rest of its table, which the handler's own model checks."""

    name: str = setting(kinds.matching(_NAME, "a name of at most 40 characters from a-z, 0-9, - and _"))
    handler: str | None = setting(Kind(kinds.read_text, "the name of a handler, for instance file"), None)
    url: str | None = setting(Kind(kinds.read_text, "a URL, for instance file:./outputs"), None, shown=False)
    progress: bool = setting(FLAG, False, "Deliver progress too, not only the result.")
    events: tuple[str, ...] = setting(WORDS, (), "Event types it gets: every decisive one if not given.")
    alerts: bool = setting(FLAG, False, "Deliver the alerts about this installation (`receiver.*`) too.")
    actions: tuple[str, ...] = setting(
        WORDS, (), "Provider actions whose tasks it gets, for instance `UPSCALE`: all if not given."
    )
    labels: dict[str, str] = setting(
        kinds.TABLE, {}, "Labels a submission must have. `*` and `?` in a value match anything."
    )
    concurrency: int | None = setting(
        kinds.whole(1, 64, "a whole number from 1 to 64"),
        None,
        "Maximum number of deliveries that run there at once. If not given: "
        f"{CONCURRENCY}, but {', '.join(f'{number} for `{name}`' for name, number in FEWER.items())}.",
    )
    timeout: float = setting(kinds.seconds(), 60.0, "Total time limit of one attempt.")
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    variables: dict[str, str] = field(default_factory=dict, repr=False)
    """Values of the `HANDLER_VARIABLES` that are set."""


def _read_destinations(tables: object) -> dict[str, Destination]:
    """Read `[destinations.NAME]` tables. Keys that `Destination` does not declare are options of the handler."""
    if not isinstance(tables, dict):
        raise ValueError("it is no table")
    ours = declared(Destination).keys() - {"name"}
    found: dict[str, Destination] = {}
    problems: dict[tuple[str, ...], tuple[str, str]] = {}
    for name, table in tables.items():
        if isinstance(table, Destination):
            found[name] = table
            continue
        if not isinstance(table, dict):
            problems[name,] = "it is no table", f"[destinations.{name}] above its options"
            continue
        options = {key: value for key, value in table.items() if key not in ours}
        try:
            found[name] = Destination(name=name, options=options, **{key: table[key] for key in ours & table.keys()})
        except WrongValues as exc:
            problems |= {(name, *path): problem for path, problem in exc.problems.items()}
    if problems:
        raise WrongValues(problems)
    return found


@dataclass(frozen=True, slots=True)
class Origin:
    """Sources of the values, the files that were read, and variables beside them.

    Attributes:
        platform: variables that identify a known platform.
        handlers: values of the `HANDLER_VARIABLES`.
        secrets: other variables that are named like a secret.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    platform: Mapping[str, str] = field(default_factory=dict)
    handlers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings(Values):
    """All settings, frozen. `load` makes one. Tests build one by hand."""

    provider_url: str = setting(
        Kind(kinds.check_origin_url, "for instance https://api.cometapi.com", kinds.show_base_url),
        "https://api.cometapi.com",
        "Base URL of the provider, or of a relay.",
        shown=False,
    )
    provider_key: Secret | None = setting(
        SECRET,
        None,
        "The provider's API key, from https://api.cometapi.com/console/token.",
        known_as=("COMETAPI_KEY",),
        unset="not set",
    )
    proxy: str | None = setting(
        Kind(kinds.check_proxy, "for instance http://proxy.example.com:3128", kinds.show_base_url),
        None,
        "HTTP proxy for an `https` provider. `none` goes without one although HTTPS_PROXY is set.",
        known_as=("https_proxy", "HTTPS_PROXY"),
        unset="none",
        shown=False,
    )
    no_proxy: str = setting(
        TEXT,
        "",
        "Hosts and domains that are reached without the proxy, separated by commas.",
        known_as=("no_proxy", "NO_PROXY"),
        unset="none",
    )
    public_url: str | None = setting(
        Kind(kinds.check_origin_url, "for instance https://receiver.example.com", kinds.show_base_url),
        None,
        "URL at which the provider reaches `receiver serve`. Without it no callback comes, and results are polled.",
        unset="not set",
        shown=False,
    )
    keys: tuple[Secret, ...] = setting(
        kinds.SECRETS,
        (),
        "Signing keys of at least 32 bytes, newest last, separated by spaces. The last signs, all verify.",
        unset="made on first start, in <data>/keys",
    )
    token_max_age: float = setting(kinds.seconds(), 72 * 3600.0, "Maximum age of a callback URL.")
    data: Path = setting(FOLDER, Path(".receiver"), "Folder of the journal, archived pictures and keys.")
    database: str | None = setting(
        Kind(
            kinds.check_database,
            "sqlite:PATH, for instance sqlite:/var/lib/receiver/journal.db, or postgresql://…",
            kinds.without_passwords,
        ),
        None,
        "The journal. `sqlite:PATH`, or `sqlite:///PATH` (relative, a fourth slash makes it absolute), "
        "is for one process. `postgresql://…` or `postgres://…` is for many processes on many machines.",
        known_as=("DATABASE_URL",),
        unset="sqlite:<data>/journal.db",
        shown=False,
    )
    database_connections: int = setting(
        kinds.whole(2, 100), 5, "Maximum number of connections to PostgreSQL per process."
    )
    database_listen: bool = setting(
        FLAG,
        True,
        "Wake other processes by LISTEN/NOTIFY. Set it to false behind a pooler in transaction mode: each "
        "process also polls once a second.",
    )
    database_statements: bool = setting(
        FLAG, True, "Prepare statements on PostgreSQL and set up connections. Set it to false behind a pooler."
    )
    database_migrate: bool = setting(
        FLAG, True, "Migrate PostgreSQL's tables at the start. If false, only `receiver migrate` does."
    )
    engine: bool = setting(
        FLAG,
        True,
        "Run the engine, which polls and delivers, inside `receiver serve`. If false, on PostgreSQL, "
        "`receiver worker` runs it.",
    )
    disk: Literal["auto", "persistent", "network"] = setting(
        kinds.one_of("auto", "persistent", "network"),
        "auto",
        "`persistent`: the data folder and the database are on a volume that outlives restarts, "
        "on a platform whose disk is otherwise lost. `network`: the same, and a network file system is accepted, where "
        "SQLite cannot guarantee that written data lasts.",
    )
    to: str = setting(
        kinds.URLS, "", "Destination URLs separated by spaces. `$VAR` is replaced.", unset=DEFAULT_TO, shown=False
    )
    destinations: dict[str, Destination] = setting(
        Kind(_read_destinations, "tables [destinations.NAME]"),
        {},
        "More destinations: a table `[destinations.NAME]` each, or one variable per option.",
        unset="none",
    )
    confirm_within: float = setting(
        kinds.seconds(zero=True),
        30.0,
        "Time to confirm a result that only a callback reports with the provider. 0 trusts it.",
    )
    poll_interval: float = setting(
        kinds.seconds(),
        15.0,
        "Longest interval between polls of a running task, and the silence after a callback before one. "
        "Near its usual end a task is polled every 2 s.",
    )
    polls_per_minute: int = setting(
        kinds.whole(6, 6000),
        120,
        "Maximum number of requests per minute by which tasks are polled. One asks about up to 50 tasks.",
    )
    deadline: float = setting(kinds.seconds(), 4200.0, "Age at which a task without an end counts as lost.")
    submit_timeout: float = setting(kinds.seconds(), 75.0, "Total time limit of one submit call.")
    media: str | None = setting(
        Kind(kinds.check_media, "a folder, or a bucket such as s3://acme/pictures"),
        None,
        "Place of archived pictures: a folder, or `s3://BUCKET/FOLDER` (also `gs:`, `az:`), "
        "which several machines can share. Needs the extra `s3`.",
        unset="<data>/media, or media in the journal's bucket",
        shown=False,
    )
    media_cache: Path | None = setting(
        FOLDER, None, "Local cache of pictures from a bucket. It may be deleted at any time.", unset="<data>/cache"
    )
    media_cache_bytes: int = setting(SIZE, 2**30, "Maximum size of that cache, without files being read.")
    media_hosts: tuple[str, ...] = setting(
        kinds.HOSTS,
        (),
        "Further hosts pictures may come from, beside "
        f"{', '.join(f'`{host}`' for host in MEDIA_HOSTS)} and the provider's own. "
        "An exact origin such as `http://host:port` may also be private or without TLS.",
        unset="none",
    )
    media_proxy: bool = setting(
        FLAG,
        False,
        "Fetch `https` pictures through the proxy, too. Their hosts are still looked up here, and the "
        "proxy is asked for the public address that was found.",
    )
    media_max_bytes: int = setting(SIZE, 256 * 2**20, "Maximum size of a picture or video to archive.")
    media_timeout: float = setting(kinds.seconds(), 120.0, "Total time limit of one download.")
    keep_callbacks: float = setting(
        KEEP, 7 * 86400.0, "Time to keep the text of a callback. `forever` is possible here and below."
    )
    keep_media: float = setting(
        KEEP,
        30 * 86400.0,
        "Time to keep archived files after their submission, unless a delivery is outstanding. "
        "Files at destinations are never deleted.",
    )
    keep_submissions: float = setting(
        KEEP,
        90 * 86400.0,
        "Time to keep a submission with its events, deliveries and attempts, unless a delivery is outstanding.",
    )
    host: str | None = setting(
        kinds.matching(".+", "an address, for instance 127.0.0.1"),
        None,
        "Address that `receiver serve` listens on. `::` takes IPv6 and IPv4.",
        unset="127.0.0.1, or 0.0.0.0 if PORT is set",
    )
    port: int = setting(
        kinds.whole(0, 65535, "a port number, for instance 8000"),
        8000,
        "Port that `receiver serve` listens on. 0 takes a free one.",
        known_as=("PORT",),
    )
    max_connections: int = setting(
        kinds.whole(16, 100_000),
        1000,
        "Maximum number of open connections of `receiver serve`. More get 503, except health checks.",
    )
    api_tokens: dict[str, Secret] = setting(
        kinds.API_TOKENS,
        {},
        "Callers of the HTTP API: `NAME:SECRET`, separated by spaces, or a table `[api_tokens]`. "
        "A secret has at least 16 characters. The log names the caller.",
        unset="none: no HTTP API",
    )
    page: bool = setting(
        FLAG,
        True,
        "Show the page of pictures and deliveries. Without `page_users` only on loopback, for who has the printed URL.",
    )
    page_users: dict[str, Secret] = setting(
        kinds.PAGE_USERS,
        {},
        "Users of the page: `NAME:ROLE:SECRET`, separated by spaces, or a table `[page_users]` with "
        '`NAME = "ROLE:SECRET"`. A viewer reads, a maker also spends, an operator also replays and erases.',
        unset="none: the page is on loopback only",
    )
    page_user_header: str | None = setting(
        kinds.matching(r"[A-Za-z0-9-]{1,64}", "at most 64 letters, digits and -"),
        None,
        "Request header with the name of a user, set by a proxy that authenticates. The proxy must remove "
        "it from requests of strangers.",
        unset="not set",
    )
    cron_secret: Secret | None = setting(
        SECRET,
        None,
        "Bearer token that a scheduler sends to `/tick` of a function.",
        known_as=("CRON_SECRET",),
        unset="none: no ticks over HTTP",
    )
    metrics_token: Secret | None = setting(
        kinds.TOKEN,
        None,
        "Bearer token for `/metrics`, of at least 16 characters. `receiver serve` has that address only with it.",
        unset="not set",
    )
    metrics_port: int | None = setting(
        kinds.whole(0, 65535, "a port number, for instance 9464"),
        None,
        "Further port of `receiver serve` and `receiver worker`, with `/metrics` alone. It is open to all "
        "that reach it, unless there is a token.",
        unset="none",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        kinds.one_of("debug", "info", "warning", "error"), "info", "Lowest level of log lines to write."
    )
    log_format: Literal["auto", "json", "console"] = setting(
        kinds.one_of("auto", "json", "console"),
        "auto",
        "Format of log lines. `auto` is console on a terminal and JSON elsewhere.",
    )

    origin: Origin = field(default=Origin(), repr=False, compare=False)

    @property
    def sources(self) -> dict[str, str]:
        """Source of each value: `flag`, `environment COMETAPI_KEY`, `receiver.toml`, `default`, …

        Each destination has an entry of its own, `destinations.NAME`.
        """
        return {**dict.fromkeys(declared(Settings), "default"), **self.origin.sources}

    @property
    def files(self) -> tuple[str, ...]:
        """Files that were read."""
        return self.origin.files

    @property
    def platform_variables(self) -> dict[str, str]:
        """Variables that identify a known platform. Empty elsewhere."""
        return dict(self.origin.platform)

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
        texts = {name: text.text.partition(":") for name, text in self.page_users.items()}
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
        return tuple(replace(item, variables=dict(self.origin.handlers)) for item in found)

    def secret_values(self) -> tuple[str, ...]:
        """Return every secret in the settings, and variables named like one, to be redacted wherever they come back."""
        keys = (*self.keys, self.provider_key, *self.api_tokens.values(), self.cron_secret, self.metrics_token)
        secrets = [key.text for key in keys if key is not None]
        secrets += [secret for _, secret in self.users.values()]
        for text in (*self.origin.handlers.values(), *self.origin.secrets.values()):
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
            item.known_as,
            item.show(item.default),
            item.help,
        )
        for name, item in declared(Settings).items()
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
        (name, resolved.get(name) or item.show(getattr(settings, name)), settings.sources[name])
        for name, item in declared(Settings).items()
        if name != "destinations"
    ]
    for name, item in settings.destinations.items():
        parts = [f"handler {item.handler}"] if item.handler else []
        parts += [kinds.show_url(item.url)] if item.url else []
        # Options by name only: the handler alone knows which of them are secret.
        parts += [f"options {' '.join(sorted(item.options))}"] if item.options else []
        rows.append((f"destinations.{name}", ", ".join(parts), settings.sources.get(f"destinations.{name}", "default")))
    return rows
