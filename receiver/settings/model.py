"""Declaration of every setting: name, kind, default and help, and the tables made from it.

`Settings(...)` is a value and never reads the environment. A shell's variables do not leak into tests, or into a
program that uses Receiver as a library.
"""

# Annotations are not postponed here: each start would compile their text.
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from receiver.settings import kinds
from receiver.settings.kinds import Folder, Hosts, Keep, Key, OriginURL, Seconds, Size
from receiver.settings.options import Kind, KnownAs, Options, Secret, Unset, WrongValues, declared, wrong

DEFAULT_TO = "file:./outputs"
MEDIA_HOSTS = (
    "cdn.discordapp.com",
    "media.discordapp.net",
    "cdn.midjourney.com",
    "youchuan-imagine.oss-cn-shanghai.aliyuncs.com",
    "imagine-cdn.youchuan.cn",
)
_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}\Z"
HANDLER_VARIABLES = ("SLACK_BOT_TOKEN", "DISCORD_WEBHOOK_URL")
"""Variables people already have for options of handlers. An option takes one with `KnownAs`."""
_SECRET = re.compile(r"(?:SECRET|TOKEN|PASSWORD|PASSWD|PWD|(?:API|ACCESS|ACCOUNT|PRIVATE)_?KEY)\Z", re.IGNORECASE)
"""Ends of names of variables that hold a secret, of whatever program: AWS_SECRET_ACCESS_KEY, GITHUB_TOKEN."""
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


class Destination(Options):
    """One configured use of a handler. `options` is the rest of its table, which the handler's own model checks."""

    INNER = frozenset({"options", "variables"})

    name: Annotated[str, Meta(pattern=_NAME), Kind(write="a name of at most 40 characters from a-z, 0-9, - and _")]
    handler: Annotated[str | None, Kind(write="the name of a handler, for instance file")] = None
    url: Annotated[str | None, Kind(write="a URL, for instance file:./outputs", show=kinds.show_url)] = None
    progress: Annotated[bool, "Deliver progress too, not only the result."] = False
    events: Annotated[tuple[str, ...], "Event types it gets: every decisive one if not given."] = ()
    alerts: Annotated[bool, "Deliver the alerts about this installation (`receiver.*`) too."] = False
    actions: Annotated[
        tuple[str, ...], "Provider actions whose tasks it gets, for instance `UPSCALE`: all if not given."
    ] = ()
    labels: Annotated[dict[str, str], "Labels a submission must have. `*` and `?` in a value match anything."] = {}
    concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None,
        "Maximum number of deliveries that run there at once. If not given: "
        f"{CONCURRENCY}, but {', '.join(f'{number} for `{name}`' for name, number in FEWER.items())}.",
    ] = None
    timeout: Annotated[Seconds, "Total time limit of one attempt."] = 60.0
    options: dict[str, Any] = {}
    variables: dict[str, str] = {}
    """Values of the `HANDLER_VARIABLES` that are set."""


def _read_destinations(tables: object) -> dict[str, Destination]:
    """Read `[destinations.NAME]` tables. Keys that `Destination` does not declare are options of the handler."""
    if not isinstance(tables, dict):
        raise ValueError
    ours = declared(Destination).keys() - {"name"}
    found: dict[str, Destination] = {}
    problems: dict[tuple[str, ...], str] = {}
    for name, table in tables.items():
        if isinstance(table, Destination):
            found[name] = table
            continue
        if not isinstance(table, dict):
            problems[name,] = wrong("it is no table", f"[destinations.{name}] above its options")
            continue
        options = {key: value for key, value in table.items() if key not in ours}
        try:
            found[name] = Destination(name=name, options=options, **{key: table[key] for key in ours & table.keys()})
        except WrongValues as exc:
            problems |= {(name, *path): problem for path, problem in exc.problems.items()}
    if problems:
        raise WrongValues(problems)
    return found


class Origin(Struct, frozen=True):
    """Sources of the values, the files that were read, and the environment's variables of other programs."""

    sources: Mapping[str, str] = {}
    files: tuple[str, ...] = ()
    environ: Mapping[str, str] = {}


class Settings(Options):
    """All settings, frozen. `load` makes one. Tests build one by hand."""

    INNER = frozenset({"origin"})

    provider_url: Annotated[
        str,
        Kind(
            check=kinds.check_origin_url, write="a URL, for instance https://api.cometapi.com", show=kinds.show_base_url
        ),
        "Base URL of the provider, or of a relay.",
    ] = "https://api.cometapi.com"
    provider_key: Annotated[
        Key | None,
        "The provider's API key, from https://api.cometapi.com/console/token.",
        KnownAs("COMETAPI_KEY"),
        Unset("not set"),
    ] = None
    proxy: Annotated[
        str | None,
        Kind(
            check=kinds.check_proxy, write="a URL, for instance http://proxy.example.com:3128", show=kinds.show_base_url
        ),
        "HTTP proxy for an `https` provider. `none` goes without one although HTTPS_PROXY is set.",
        KnownAs("https_proxy"),
        KnownAs("HTTPS_PROXY"),
        Unset("none"),
    ] = None
    no_proxy: Annotated[
        str,
        "Hosts and domains that are reached without the proxy, separated by commas.",
        KnownAs("no_proxy"),
        KnownAs("NO_PROXY"),
        Unset("none"),
    ] = ""
    public_url: Annotated[
        OriginURL | None,
        "URL at which the provider reaches `receiver serve`. Without it no callback comes, and results are polled.",
        Unset("not set"),
    ] = None
    keys: Annotated[
        tuple[Secret, ...],
        Kind(
            write="keys of at least 32 bytes, newest last, separated by spaces; make one with: openssl rand -hex 32",
            show=lambda keys: f"set, {len(keys)} key{'s' if len(keys) != 1 else ''}",
        ),
        "Signing keys of at least 32 bytes, newest last, separated by spaces. The last signs, all verify.",
        Unset("made on first start, in <data>/keys"),
    ] = ()
    token_max_age: Annotated[Seconds, "Maximum age of a callback URL."] = 72 * 3600.0
    data: Annotated[Folder, "Folder of the journal, archived pictures and keys."] = Path(".receiver")
    database: Annotated[
        str | None,
        Kind(
            check=kinds.check_database,
            write="sqlite:PATH, for instance sqlite:/var/lib/receiver/journal.db, or postgresql://…",
            show=kinds.without_passwords,
        ),
        "The journal. `sqlite:PATH`, or `sqlite:///PATH` (relative, a fourth slash makes it absolute), "
        "is for one process. `postgresql://…` or `postgres://…` is for many processes on many machines.",
        KnownAs("DATABASE_URL"),
        Unset("sqlite:<data>/journal.db"),
    ] = None
    database_connections: Annotated[
        int, Meta(ge=2, le=100), "Maximum number of connections to PostgreSQL per process."
    ] = 5
    database_listen: Annotated[
        bool,
        "Wake other processes by LISTEN/NOTIFY. Set it to false behind a pooler in transaction mode: each "
        "process also polls once a second.",
    ] = True
    database_statements: Annotated[
        bool, "Prepare statements on PostgreSQL and set up connections. Set it to false behind a pooler."
    ] = True
    database_migrate: Annotated[
        bool, "Migrate PostgreSQL's tables at the start. If false, only `receiver migrate` does."
    ] = True
    engine: Annotated[
        bool,
        "Run the engine, which polls and delivers, inside `receiver serve`. If false, on PostgreSQL, "
        "`receiver worker` runs it.",
    ] = True
    disk: Annotated[
        Literal["auto", "persistent", "network"],
        "`persistent`: the data folder and the database are on a volume that outlives restarts, "
        "on a platform whose disk is otherwise lost. `network`: the same, and a network file system is accepted, where "
        "SQLite cannot guarantee that written data lasts.",
    ] = "auto"
    to: Annotated[
        str,
        Kind(
            kinds.join_words,
            kinds.check_urls,
            "URLs separated by spaces, for instance file:./outputs",
            lambda urls: " ".join(map(kinds.show_url, urls.split())),
        ),
        "Destination URLs separated by spaces. `$VAR` is replaced.",
        Unset(DEFAULT_TO),
    ] = ""
    destinations: Annotated[
        dict[str, Destination],
        Kind(_read_destinations, write="tables [destinations.NAME]"),
        "More destinations: a table `[destinations.NAME]` each, or one variable per option.",
        Unset("none"),
    ] = {}
    confirm_within: Annotated[
        float,
        Kind(kinds.parse_seconds, write="seconds, or a time such as 30s, 15m or 72h", show=kinds.show_seconds),
        Meta(ge=0),
        "Time to confirm a result that only a callback reports with the provider. 0 trusts it.",
    ] = 30.0
    poll_interval: Annotated[
        Seconds,
        "Longest interval between polls of a running task, and the silence after a callback before one. "
        "Near its usual end a task is polled every 2 s.",
    ] = 15.0
    polls_per_minute: Annotated[
        int,
        Meta(ge=6, le=6000),
        "Maximum number of requests per minute by which tasks are polled. One asks about up to 50 tasks.",
    ] = 120
    deadline: Annotated[Seconds, "Age at which a task without an end counts as lost."] = 4200.0
    submit_timeout: Annotated[Seconds, "Total time limit of one submit call."] = 75.0
    media: Annotated[
        str | None,
        Kind(
            check=kinds.check_media,
            write="a folder, or a bucket such as s3://acme/pictures",
            show=kinds.without_passwords,
        ),
        "Place of archived pictures: a folder, or `s3://BUCKET/FOLDER` (also `gs:`, `az:`), "
        "which several machines can share. Needs the extra `s3`.",
        Unset("<data>/media, or media in the journal's bucket"),
    ] = None
    media_cache: Annotated[
        Folder | None, "Local cache of pictures from a bucket. It may be deleted at any time.", Unset("<data>/cache")
    ] = None
    media_cache_bytes: Annotated[Size, "Maximum size of that cache, without files being read."] = 2**30
    media_hosts: Annotated[
        Hosts,
        "Further hosts pictures may come from, beside "
        f"{', '.join(f'`{host}`' for host in MEDIA_HOSTS)} and the provider's own. "
        "An exact origin such as `http://host:port` may also be private or without TLS.",
        Unset("none"),
    ] = ()
    media_proxy: Annotated[
        bool,
        "Fetch `https` pictures through the proxy, too. Their hosts are still looked up here, and the "
        "proxy is asked for the public address that was found.",
    ] = False
    media_max_bytes: Annotated[Size, "Maximum size of a picture or video to archive."] = 256 * 2**20
    media_timeout: Annotated[Seconds, "Total time limit of one download."] = 120.0
    keep_callbacks: Annotated[Keep, "Time to keep the text of a callback. `forever` is possible here and below."] = (
        7 * 86400.0
    )
    keep_media: Annotated[
        Keep,
        "Time to keep archived files after their submission, unless a delivery is outstanding. "
        "Files at destinations are never deleted.",
    ] = 30 * 86400.0
    keep_submissions: Annotated[
        Keep, "Time to keep a submission with its events, deliveries and attempts, unless a delivery is outstanding."
    ] = 90 * 86400.0
    host: Annotated[
        str | None,
        Meta(pattern=r"^.+\Z"),
        Kind(write="an address, for instance 127.0.0.1"),
        "Address that `receiver serve` listens on. `::` takes IPv6 and IPv4.",
        Unset("127.0.0.1, or 0.0.0.0 if PORT is set"),
    ] = None
    port: Annotated[
        int, Meta(ge=0, le=65535), "Port that `receiver serve` listens on. 0 takes a free one.", KnownAs("PORT")
    ] = 8000
    max_connections: Annotated[
        int,
        Meta(ge=16, le=100_000),
        "Maximum number of open connections of `receiver serve`. More get 503, except health checks.",
    ] = 1000
    api_tokens: Annotated[
        dict[str, Secret],
        Kind(
            kinds.split_named,
            kinds.check_api_tokens,
            "NAME:SECRET for each caller, separated by spaces; make a secret with: openssl rand -hex 32",
        ),
        "Callers of the HTTP API: `NAME:SECRET`, separated by spaces, or a table `[api_tokens]`. "
        "A secret has at least 16 characters. The log names the caller.",
        Unset("none: no HTTP API"),
    ] = {}
    page: Annotated[
        bool,
        "Show the page of pictures and deliveries. Without `page_users` only on loopback, for who has the printed URL.",
    ] = True
    page_users: Annotated[
        dict[str, Secret],
        Kind(
            kinds.split_named,
            kinds.check_page_users,
            "NAME:ROLE:SECRET for each user, separated by spaces, with a role of viewer, maker or operator",
            lambda users: ", ".join(f"{name}: {text.text.partition(':')[0]}" for name, text in users.items()),
        ),
        "Users of the page: `NAME:ROLE:SECRET`, separated by spaces, or a table `[page_users]` with "
        '`NAME = "ROLE:SECRET"`. A viewer reads, a maker also spends, an operator also replays and erases.',
        Unset("none: the page is on loopback only"),
    ] = {}
    page_user_header: Annotated[
        str | None,
        Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z"),
        Kind(write="at most 64 letters, digits and -"),
        "Request header with the name of a user, set by a proxy that authenticates. The proxy must remove "
        "it from requests of strangers.",
        Unset("not set"),
    ] = None
    cron_secret: Annotated[
        Key | None,
        "Bearer token that a scheduler sends to `/tick` of a function.",
        KnownAs("CRON_SECRET"),
        Unset("none: no ticks over HTTP"),
    ] = None
    metrics_token: Annotated[
        Secret | None,
        Kind(None, kinds.check_token, "a secret; make one with: openssl rand -hex 32", kinds.show_length),
        "Bearer token for `/metrics`, of at least 16 characters. `receiver serve` has that address only with it.",
        Unset("not set"),
    ] = None
    metrics_port: Annotated[
        int | None,
        Meta(ge=0, le=65535),
        "Further port of `receiver serve` and `receiver worker`, with `/metrics` alone. It is open to all "
        "that reach it, unless there is a token.",
        Unset("none"),
    ] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], "Lowest level of log lines to write."] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"], "Format of log lines. `auto` is console on a terminal and JSON elsewhere."
    ] = "auto"

    origin: Origin = Origin()

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
        variables = {name: text for name in HANDLER_VARIABLES if (text := self.origin.environ.get(name, "").strip())}
        return tuple(replace(item, variables=variables) for item in found)

    def secret_values(self) -> tuple[str, ...]:
        """Return every secret in the settings, and variables named like one, to be redacted wherever they come back."""
        keys = (*self.keys, self.provider_key, *self.api_tokens.values(), self.cron_secret, self.metrics_token)
        secrets = [key.text for key in keys if key is not None]
        secrets += [secret for _, secret in self.users.values()]
        for name, text in self.origin.environ.items():
            # A word, a number or a path would be hidden wherever it occurs.
            plain = len(text) < 8 or text.isalpha() or text.isdigit() or text.startswith(("/", "~", "."))
            if text and (name in HANDLER_VARIABLES or (_SECRET.search(name) and not plain)):
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
