"""Settings: where values come from, what wrong ones say, what is shown of secret ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.app.container import proxy_for
from receiver.errors import SettingsError
from receiver.settings import (
    Destination,
    Settings,
    check_platform,
    declared,
    ensure_keys,
    load,
    require_provider_key,
    show,
)
from receiver.settings.kinds import show_seconds, show_size, show_url, sqlite_path

KEY = "k" * 32


def problem(environ: dict[str, str], folder: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ, folder)
    return str(caught.value)


def test_nothing_set_gives_defaults_and_a_folder_of_outputs(tmp_path: Path) -> None:
    """Without any setting all values are defaults, and results go to ./outputs."""
    settings = load({}, tmp_path)
    assert set(settings.sources.values()) == {"default"}
    assert settings.resolved_destinations() == (Destination(name="file", url="file:./outputs"),)
    assert settings.database_path == Path(".receiver/journal.db")
    assert (settings.token_max_age, settings.deadline, settings.bind_host) == (259200, 4200, "127.0.0.1")


def test_the_environment_is_read_only_where_it_is_passed(tmp_path: Path) -> None:
    """A mapping passed to `load` stands for the whole environment, and building Settings by hand reads none."""
    script = (
        "from pathlib import Path; from receiver.settings import Settings, load;"
        f"print(Settings().port, load({{}}, Path({str(tmp_path)!r})).port, load(None, Path({str(tmp_path)!r})).port)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], env={"RECEIVER_PORT": "9"}, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["8000", "8000", "9"]


LAYERS = [
    ("flag", {"port": 5}, {"RECEIVER_PORT": "4", "PORT": "3", "RECEIVER_CONFIG": "port = 2"}, 5),
    (
        "environment RECEIVER_PORT",
        {"port": None},
        {"RECEIVER_PORT": "4", "PORT": "3", "RECEIVER_CONFIG": "port = 2"},
        4,
    ),
    ("environment PORT", {}, {"RECEIVER_PORT": " ", "PORT": "3", "RECEIVER_CONFIG": "port = 2"}, 3),
    ("RECEIVER_CONFIG", {}, {"RECEIVER_CONFIG": "port = 2"}, 2),
    ("receiver.toml", {}, {}, 1),
]


@pytest.mark.parametrize(("source", "flags", "environ", "port"), LAYERS)
def test_the_stronger_layer_wins(
    source: str, flags: dict[str, int], environ: dict[str, str], port: int, tmp_path: Path
) -> None:
    """Flag, RECEIVER_*, known name, RECEIVER_CONFIG, receiver.toml: in that order, and the source tells which."""
    (tmp_path / "receiver.toml").write_text("port = 1\n")
    settings = load(environ, tmp_path, flags)
    assert (settings.port, settings.sources["port"]) == (port, source)


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({"PORT": "80"}, "0.0.0.0"),  # noqa: S104 a text to compare with
        ({"PORT": "80", "RECEIVER_HOST": "::1"}, "::1"),
        ({"RECEIVER_PORT": "80"}, "127.0.0.1"),
    ],
)
def test_a_port_from_the_platform_opens_all_addresses(environ: dict[str, str], host: str, tmp_path: Path) -> None:
    """Only where PORT came from the platform does an unset host mean all addresses."""
    assert load(environ, tmp_path).bind_host == host


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("30s", 30), ("15m", 900), ("72h", 259200), ("2D", 172800)]
)
def test_durations_are_read_with_or_without_a_unit(text: str, seconds: float, tmp_path: Path) -> None:
    """A length of time is a number of seconds, or a number with s, m, h or d."""
    assert load({"RECEIVER_DEADLINE": text}, tmp_path).deadline == seconds


@pytest.mark.parametrize("text", ["8080", "08080", "+8080"])
def test_a_whole_number_may_have_a_sign_and_zeros_before_it(text: str, tmp_path: Path) -> None:
    """As a shell's `printf %05d` and people write it."""
    settings = load({"RECEIVER_PORT": text, "RECEIVER_METRICS_PORT": text}, tmp_path)
    assert (settings.port, settings.metrics_port) == (8080, 8080)


def test_an_empty_list_of_urls_names_no_destination(tmp_path: Path) -> None:
    """Then the default one is taken, as without the setting."""
    assert load({"RECEIVER_CONFIG": "to = []"}, tmp_path).to == ""


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_seconds(4200), "70m"),
        (show_seconds(259200), "3d"),
        (show_seconds(0), "0s"),
        (show_seconds(1.5), "1.5s"),
        (show_size(256 * 2**20), "256MiB"),
        (show_size(1000), "1000"),
        (show_url("file:./outputs"), "file:./outputs"),
        (show_url("s3://key:secret@bucket/mj?x=secret"), "s3://••••@bucket/mj?••••"),
        (show_url("https://u:secret@hooks.slack.com/services/T/B/secret"), "https://hooks.slack.com/••••"),
        (show_url("http://n8n:5678"), "http://n8n:5678"),
        (show_url("tgram://secret/1"), "tgram:••••"),
        (show_url("https://[secret/1"), "https:••••"),
    ],
)
def test_values_are_shown_short_and_without_secrets(shown: str, expected: str) -> None:
    """Amounts are shown as one would write them, URLs without userinfo, query and token paths."""
    assert shown == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"sk-x"', "sk-x"),
        ("'sk-x'", "sk-x"),
        (' "sk-x"\r', "sk-x"),
        ("\ufeffsk-x\r\n", "sk-x"),
        ("sk\"x'", "sk\"x'"),
        ('"a" "b"', '"a" "b"'),
        ('"', '"'),
    ],
)
@pytest.mark.parametrize("name", ["COMETAPI_KEY", "RECEIVER_PROVIDER_KEY"])
def test_quotes_of_an_env_file_are_no_part_of_a_value(name: str, text: str, value: str, tmp_path: Path) -> None:
    """`docker --env-file` and dashboards hand them on, with the spaces and line ends around them."""
    key = load({name: text}, tmp_path).provider_key
    assert key is not None
    assert key.text == value


PROVIDER = {"RECEIVER_PROVIDER_URL": "https://api.example.com"}


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({"HTTPS_PROXY": "http://u:p@proxy:3128/"}, "http://u:p@proxy:3128"),
        ({"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1", "RECEIVER_PROXY": "http://c:1"}, "http://c:1"),
        ({"HTTPS_PROXY": "http://a:1", "RECEIVER_PROXY": "none"}, None),
        ({"HTTP_PROXY": "http://a:1", "ALL_PROXY": "http://a:1"}, None),
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "localhost,.example.com"}, None),
        ({"HTTPS_PROXY": "http://a:1", "no_proxy": "*"}, None),
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "other.com"}, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "RECEIVER_PROVIDER_URL": "http://127.0.0.1:8001"}, None),
    ],
)
def test_a_proxy_on_the_way_to_the_provider(environ: dict[str, str], proxy: str | None, tmp_path: Path) -> None:
    """By the names that other tools read, for https alone, and not for the hosts that are left out."""
    settings = load(PROVIDER | environ, tmp_path)
    assert proxy_for(settings, settings.provider_url) == proxy
    assert "u:p" not in repr(settings) + str(show(settings))


def test_quotes_are_dropped_wherever_a_variable_is_read(tmp_path: Path) -> None:
    """By other names, in options, in `$VAR`, and around the whole TOML. Nothing but quotes counts as not set."""
    environ = {
        "DATABASE_URL": '"sqlite:x.db"', "PORT": "'81'", "HOOK": "'https://h/x'", "RECEIVER_DEADLINE": '""',
        "RECEIVER_TO": '"file:./a s3://b"', "RECEIVER_DESTINATIONS__C__URL": "'file:./c'",
        "SLACK_BOT_TOKEN": '"xoxb-1"',
        "RECEIVER_CONFIG": "'[destinations.d]\nurl = \"$HOOK\"'",
    }  # fmt: skip
    settings = load(environ, tmp_path)
    found = settings.resolved_destinations()
    assert [item.url for item in found] == ["file:./a", "s3://b", "https://h/x", "file:./c"]
    assert found[0].variables == {"SLACK_BOT_TOKEN": "xoxb-1"}
    assert (settings.database, settings.port, settings.deadline) == ("sqlite:x.db", 81, 4200.0)


@pytest.mark.parametrize(
    ("database", "path"),
    [
        ("sqlite:x.db", "x.db"),
        ("sqlite:/a/x.db", "/a/x.db"),
        ("sqlite:///x.db", "x.db"),
        ("sqlite:////a/x.db", "/a/x.db"),
        ("SQLite:x.db", "x.db"),
    ],
)
def test_a_database_is_sqlite_with_a_path(database: str, path: str) -> None:
    """Both spellings of an SQLite URL give its path; three slashes are relative and four absolute."""
    assert sqlite_path(database) == Path(path)


@pytest.mark.parametrize(
    ("database", "kind", "shown"),
    [
        ("sqlite:x.db", "sqlite", "sqlite:x.db"),
        ("postgres://u:s3cret@h:5433/d", "postgres", "postgres://u:••••@h:5433/d"),
        ("postgresql://u@h/d?sslmode=require", "postgres", "postgresql://u@h/d?sslmode=require"),
        ("postgresql://h/d?user=u&password=s3cret", "postgres", "postgresql://h/d?user=u&password=••••"),
        ("postgresql://u:s3cr%65t@[::1]/d", "postgres", "postgresql://u:••••@[::1]/d"),
        ("postgres://u:s3cret@h/d?application_name=a@b", "postgres", "postgres://u:••••@h/d?application_name=a@b"),
        ("postgresql://u:s3cret@h1:5432,h2:5432/d", "postgres", "postgresql://u:••••@h1:5432,h2:5432/d"),
        ("postgresql:///d?host=/run/postgresql", "postgres", "postgresql:///d?host=/run/postgresql"),
        ("s3://acme/mj", "bucket", "s3://acme/mj"),
        ("s3://acme/mj?secret_key=s3cret", "bucket", "s3://acme/mj?secret_key=••••"),
        ("gs://acme/mj", "bucket", "gs://acme/mj"),
        ("az://acme/mj", "bucket", "az://acme/mj"),
        ("none", "none", "none"),
        ("postgresql+asyncpg://u:s3cret@h/d", "postgres", "postgresql+asyncpg://u:••••@h/d"),
        ("postgres+psycopg2://u:s3cret@h/d?ssl=true", "postgres", "postgres+psycopg2://u:••••@h/d?ssl=true"),
    ],
)
@pytest.mark.parametrize("name", ["RECEIVER_DATABASE", "DATABASE_URL"])
def test_what_keeps_the_journal_is_shown_without_its_password(
    name: str, database: str, kind: str, shown: str, tmp_path: Path
) -> None:
    """By either name, in each spelling; the logs know the password as a secret, as it is and as it is written."""
    settings = load({name: database}, tmp_path)
    assert (settings.database_kind, settings.database_shown) == (kind, shown)
    rows = {row: value for row, value, _ in show(settings)}
    assert rows["database"] == shown
    assert "s3cr" not in repr(settings) + str(show(settings))
    if "s3cr" in database:
        assert "s3cret" in settings.secret_values()


@pytest.mark.parametrize(
    ("environ", "place", "cache"),
    [
        ({}, ".receiver/media", ".receiver/cache"),
        ({"RECEIVER_DATA": "/srv"}, "/srv/media", "/srv/cache"),
        ({"RECEIVER_MEDIA": "~/pictures"}, str(Path.home() / "pictures"), ".receiver/cache"),
        ({"RECEIVER_MEDIA": "s3://acme/a?region=eu-1"}, "s3://acme/a?region=eu-1", ".receiver/cache"),
        ({"DATABASE_URL": "s3://acme/j/?region=eu-1"}, "s3://acme/j/media?region=eu-1", ".receiver/cache"),
        ({"DATABASE_URL": "s3://acme/j", "RECEIVER_MEDIA": "a"}, "a", ".receiver/cache"),
        ({"RECEIVER_MEDIA": "GS://acme", "RECEIVER_MEDIA_CACHE": "~/c"}, "GS://acme", str(Path.home() / "c")),
    ],
)
def test_where_pictures_are_kept(environ: dict[str, str], place: str, cache: str, tmp_path: Path) -> None:
    """Beside the journal, in a folder or a bucket, or where it is said; a bucket's files are brought into a cache."""
    settings = load(environ, tmp_path)
    assert (settings.media_place, str(settings.media_cache_folder)) == (place, cache)
    shown = {name: value for name, value, _ in show(settings)}
    assert (shown["media"], shown["media_cache"], shown["media_cache_bytes"]) == (place, cache, "1GiB")


WRONG = [
    (
        {"RECEIVER_POLL_INTERVAL": "s3cret"},
        "RECEIVER_POLL_INTERVAL is wrong: it is not a length of time. Write seconds",
    ),
    ({"RECEIVER_POLL_INTERVAL": "0"}, "RECEIVER_POLL_INTERVAL cannot be '0'. Write seconds above 0"),
    ({"RECEIVER_CONFIRM_WITHIN": "nan"}, "RECEIVER_CONFIRM_WITHIN cannot be 'nan'"),
    ({"RECEIVER_API_TOKENS": "s3cret-0123456789"}, "RECEIVER_API_TOKENS is wrong: an entry of it has no colon"),
    ({"RECEIVER_API_TOKENS": "S3:s3cret-0123456789"}, "the name of entry 1 is not made of a-z, 0-9, - and _"),
    ({"RECEIVER_API_TOKENS": "a:s3cret"}, "the secret of entry 1 does not have 16 to 200 letters"),
    ({"RECEIVER_API_TOKENS": "a:s3cret-0123456789 b:s3cret-0123456789"}, "two names have the same secret"),
    ({"RECEIVER_API_TOKENS": "a:s3cret-0123456789 a:s3cret-9876543210"}, "a name is in it twice"),
    (
        {"RECEIVER_CONFIG": "[api_tokens]\na = 5"},
        "api_tokens in RECEIVER_CONFIG is wrong. Write NAME:SECRET for each",
    ),
    ({"RECEIVER_CONFIG": "deadline = nan"}, "deadline in RECEIVER_CONFIG cannot be nan: it is longer than a year"),
    ({"RECEIVER_CONFIG": "deadline = true"}, "deadline in RECEIVER_CONFIG cannot be true: it is not a length of time"),
    ({"RECEIVER_CONFIG": f"deadline = 1{'0' * 400}"}, "deadline in RECEIVER_CONFIG is wrong: it is longer than a year"),
    (
        {"RECEIVER_CONFIG": "media_max_bytes = inf"},
        "media_max_bytes in RECEIVER_CONFIG cannot be inf: it is not a size",
    ),
    ({"RECEIVER_CONFIG": "api_tokens = [5]"}, "an entry of it has no colon"),
    ({"RECEIVER_CONFIG": "keys = 5"}, "keys in RECEIVER_CONFIG is wrong. Write keys of at least 32 bytes"),
    ({"RECEIVER_PAGE_USERS": "secret"}, "RECEIVER_PAGE_USERS is wrong: an entry of it has no colon. Write NAME:ROLE:"),
    ({"RECEIVER_METRICS_TOKEN": "s3cret"}, "RECEIVER_METRICS_TOKEN is wrong: it has less than 16 characters"),
    ({"PORT": "s3cret"}, "PORT is wrong. Write a whole number from 0 to 65535."),
    ({"RECEIVER_PORT": "70000"}, "RECEIVER_PORT cannot be '70000'. Write a whole number from 0 to 65535."),
    ({"RECEIVER_LOG_FORMAT": "s3cret"}, "RECEIVER_LOG_FORMAT is wrong. Write auto, json or console."),
    ({"RECEIVER_MEDIA_MAX_BYTES": "9XB"}, "RECEIVER_MEDIA_MAX_BYTES cannot be '9XB': it is not a size. Write bytes"),
    ({"RECEIVER_MEDIA_HOSTS": "https://*.s3cret"}, "entry 1 of it has a *, and each host is named in full"),
    ({"RECEIVER_TO": "file:./x slack:"}, "entry 2 of it names no place behind its scheme. Write URLs separated by"),
    ({"RECEIVER_DESTINATIONS__A__LABELS": "s3cret=x"}, "LABELS is wrong. Write a table of text (JSON in a variable)."),
    ({"HTTPS_PROXY": "socks5://s3cret:1080"}, "HTTPS_PROXY is wrong: it is no http:// or https:// URL of a proxy."),
    ({"HTTPS_PROXY": "http://s3cret/path"}, "RECEIVER_PROXY=none goes without one. Write a URL, for"),
    ({"RECEIVER_MEDIA": "~s3cret/a"}, "RECEIVER_MEDIA is wrong: there is no home folder for the ~ in it."),
    ({"RECEIVER_DATA": "~s3cret/a"}, "RECEIVER_DATA is wrong. Write a folder this user may write."),
    ({"RECEIVER_DATABASE": "sqlite:~s3cret/a"}, "RECEIVER_DATABASE is wrong: there is no home folder for the ~ in it."),
    ({"RECEIVER_MEDIA": "file:./s3cret"}, "RECEIVER_MEDIA is wrong: a folder is written as its path alone"),
    (
        {"RECEIVER_MEDIA": "ftp://s3cret/a"},
        "RECEIVER_MEDIA is wrong: it is neither a folder nor a URL",
    ),
    ({"RECEIVER_MEDIA": "s3://AK:s3cret@a/b"}, "RECEIVER_MEDIA is wrong: it holds a user name or a secret"),
    ({"RECEIVER_PROVIDER_URL": "api.s3cret"}, "RECEIVER_PROVIDER_URL is wrong: it is not an http:// or https:// URL"),
    ({"RECEIVER_PROVIDER_URL": "http://h:s3cret/"}, "RECEIVER_PROVIDER_URL is wrong"),
    ({"RECEIVER_PUBLIC_URL": "https://h/?a=s3cret"}, "RECEIVER_PUBLIC_URL is wrong: it must not have a query"),
    ({"RECEIVER_PUBLIC_URL": "https://h/" + "a" * 400}, "RECEIVER_PUBLIC_URL is wrong: it is longer than 400"),
    ({"RECEIVER_MEDIA_HOSTS": "ok.example s3cret/x"}, "RECEIVER_MEDIA_HOSTS is wrong: entry 2 of it is neither"),
    ({"RECEIVER_TO": "file:./x s3cret"}, "RECEIVER_TO is wrong: entry 2 of it is not a URL with a scheme"),
    ({"RECEIVER_TO": "file:./$NOPE"}, "RECEIVER_TO: the variable NOPE is not set"),
    ({"RECEIVER_CONFIG": "data = '${s3cret x}'"}, "data in RECEIVER_CONFIG: a ${ in it is not followed by"),
    ({"DATABASE_URL": "mysql://u:s3cret@h/d"}, "DATABASE_URL is wrong: it does not begin with sqlite:, postgresql://"),
    ({"DATABASE_URL": "postgres://u:s3cret@h:port/d"}, "DATABASE_URL is wrong: it is no URL. In a password write @ :"),
    (
        {"DATABASE_URL": "postgres://u:[s3cret]x@h/d"},
        "In a password write @ : / ? # [ ] as %40 %3A %2F %3F %23 %5B %5D",
    ),
    *(
        ({"DATABASE_URL": f"postgres://u:12{sign}s3cret@h/d"}, "In a password write @ : / ? # [ ] as %40")
        for sign in "@?#"
    ),
    ({"DATABASE_URL": "postgres://u:s3cret@x@h/d?sslmode=require"}, "In a password write @ : / ? # [ ] as %40"),
    ({"DATABASE_URL": "psql 'postgres://u:s3cret@h/d'"}, "Leave out all before postgresql:// and quotes at the end"),
    ({"DATABASE_URL": "jdbc:postgresql://h/d?password=s3cret"}, "Leave out all before postgresql:// and quotes"),
    ({"DATABASE_URL": "mysql+asyncpg://u:s3cret@h/d"}, "DATABASE_URL is wrong: it does not begin with sqlite:"),
    ({"RECEIVER_TO": "file:./out,slack://s3cret"}, "entry 1 of it has a comma or semicolon between two URLs"),
    ({"RECEIVER_TO": "file:./out, slack://s3cret"}, "spaces: file:./outputs slack://C0123ABCD. A comma inside a URL"),
    ({"RECEIVER_TO": "slack://s3cret;file:out"}, "entry 1 of it has a comma or semicolon between two URLs"),
    ({"RECEIVER_CONFIG": 'to = ["s3://s3cret,gs://b"]'}, "to in RECEIVER_CONFIG is wrong: entry 1 of it has a comma"),
    ({"RECEIVER_DATABASE": "postgresql:s3cret"}, "RECEIVER_DATABASE is wrong: it needs // and a user, a host and"),
    ({"RECEIVER_DATABASE": "postgresql://"}, "RECEIVER_DATABASE is wrong: it needs // and a user, a host and"),
    ({"RECEIVER_DATABASE": "s3:///s3cret"}, "RECEIVER_DATABASE is wrong: it names no bucket"),
    (
        {"RECEIVER_DATABASE": "/s3cret.db"},
        "RECEIVER_DATABASE is wrong: it does not begin with sqlite:, postgresql://, s3://, gs:// or az://. Write",
    ),
    ({"RECEIVER_DATABASE_LISTEN": "s3cret"}, "RECEIVER_DATABASE_LISTEN is wrong. Write true or false."),
    (
        {"RECEIVER_DATABASE_CONNECTIONS": "1"},
        "RECEIVER_DATABASE_CONNECTIONS cannot be '1'. Write a whole number from 2",
    ),
    ({"RECEIVER_DATABASE": "sqlite::memory:"}, "RECEIVER_DATABASE is wrong: it has no usable path"),
    (
        {"RECEIVER_POL_INTERVAL": "s3cret"},
        "RECEIVER_POL_INTERVAL is not a setting of Receiver. Did you mean RECEIVER_POLL",
    ),
    ({"RECEIVER_CONFG": "s3cret"}, "Did you mean RECEIVER_CONFIG?"),
    ({"RECEIVER_ZZZ": "s3cret"}, "RECEIVER_ZZZ is not a setting of Receiver. `receiver settings` lists all"),
    ({"RECEIVER_CONFIG": "pol_interval = 's3cret'"}, "pol_interval in RECEIVER_CONFIG is not a setting of Receiver."),
    ({"RECEIVER_CONFIG": "[destination.x]"}, "Did you mean destinations?"),
    ({"RECEIVER_CONFIG": "destinations = 's3cret'"}, "destinations in RECEIVER_CONFIG is not a table"),
    ({"RECEIVER_CONFIG": "destinations.x = 's3cret'"}, "destinations.x in RECEIVER_CONFIG is not a table"),
    (
        {"RECEIVER_CONFIG": "[destinations.X]"},
        "[destinations.X] in RECEIVER_CONFIG cannot be 'X'. Write a name of at most 40",
    ),
    ({"RECEIVER_CONFIG": '[destinations."a b"]'}, " in RECEIVER_CONFIG is wrong. Write a name of at most 40"),
    ({"RECEIVER_PAGE_USER_HEADER": "X: s3cret"}, "RECEIVER_PAGE_USER_HEADER is wrong. Write at most 64 letters"),
    ({"RECEIVER_CONFIG": "port ="}, "RECEIVER_CONFIG cannot be read as TOML"),
    (
        {"RECEIVER_DESTINATIONS": "x"},
        "RECEIVER_DESTINATIONS is not a setting. Write RECEIVER_DESTINATIONS__NAME__OPTION",
    ),
    ({"RECEIVER_DESTINATIONS__A": "x"}, "RECEIVER_DESTINATIONS__A names no option"),
    (
        {"RECEIVER_DESTINATIONS__A__CONCURRENCY": "65"},
        "RECEIVER_DESTINATIONS__A__CONCURRENCY cannot be '65'. Write a whole number from 1 to 64.",
    ),
    (
        {"RECEIVER_CONFIG": "[destinations.a.labels]\norder = 17"},
        "destinations.a.labels in RECEIVER_CONFIG is wrong. Write a table of text (JSON in a variable).",
    ),
    ({"RECEIVER_CONFIG": "[destinations.a]\ntimeout = 's3cret'"}, "destinations.a.timeout in RECEIVER_CONFIG is wrong"),
]


@pytest.mark.parametrize(("environ", "sentence"), WRONG)
def test_a_wrong_setting_is_named_as_written_without_a_secret(
    environ: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    """Each gives one line: its name as the user wrote it, and its value only if that is a number or a word."""
    text = problem(environ, tmp_path)
    assert sentence in text
    assert "'secret'" not in text
    assert "s3cret" not in text.replace("${s3cret x}", "")
    assert len(text.splitlines()) == 1


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    """One start tells everything that is wrong, so that nobody repairs setting after setting."""
    text = problem({"RECEIVER_PORT": "x", "RECEIVER_ZZZ": "1", "RECEIVER_DATA": "d", "RECEIVER_TO": "$X"}, tmp_path)
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_an_unreadable_file_is_told(content: bytes | None, tmp_path: Path) -> None:
    """A receiver.toml that is a folder, or no text, is an error and not ignored."""
    path = tmp_path / "receiver.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    assert "receiver.toml cannot be read" in problem({}, tmp_path)


def test_variables_of_kubernetes_are_not_ours(tmp_path: Path) -> None:
    """A Kubernetes service called `receiver` sets RECEIVER_PORT and more, which must not stop the start."""
    environ = {
        "RECEIVER_SERVICE_HOST": "10.0.0.1",
        "RECEIVER_SERVICE_PORT_HTTP": "80",
        "RECEIVER_PORT": "tcp://10.0.0.1:80",
        "RECEIVER_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load(environ, tmp_path).port == 8000


def test_variables_are_filled_in_within_toml_and_to(tmp_path: Path) -> None:
    """`$VAR` and `${VAR}` are filled in at any depth of TOML and in RECEIVER_TO; `$$` is a dollar, `$5` stays."""
    (tmp_path / "receiver.toml").write_text(
        "data = '${ROOT}/data'\n[destinations.a]\nurl = 's3://$BUCKET'\nheaders = {x = ['$TOKEN', 'a$$b $5']}\n"
    )
    environ = {"ROOT": "/r", "BUCKET": "b", "TOKEN": "t", "RECEIVER_TO": "file:$ROOT/x", "RECEIVER_KEYS": "$" + KEY}
    settings = load(environ, tmp_path)
    assert settings.data == Path("/r/data")
    assert settings.to == "file:/r/x"
    assert settings.destinations["a"].url == "s3://b"
    assert settings.destinations["a"].options == {"headers": {"x": ["t", "a$b $5"]}}
    assert settings.keys[0].text == "$" + KEY


def test_destinations_merge_option_by_option(tmp_path: Path) -> None:
    """A variable overrides one option of a table, also of one whose name has a hyphen; the sources name both."""
    (tmp_path / "receiver.toml").write_text("[destinations.my-team]\nurl='slack:C1'\ncolor='red'\nconcurrency=2\n")
    environ = {
        "RECEIVER_CONFIG": "[destinations.my-team]\ncolor='blue'",
        "RECEIVER_DESTINATIONS__MY_TEAM__PROGRESS": "true",
        "RECEIVER_DESTINATIONS__MY_TEAM__TAGS": '["a", "b"]',
        "RECEIVER_DESTINATIONS__NEW__HANDLER": "file",
    }
    settings = load(environ, tmp_path)
    team = settings.destinations["my-team"]
    assert (team.url, team.progress, team.concurrency) == ("slack:C1", True, 2)
    assert team.options == {"color": "blue", "tags": ["a", "b"]}
    assert settings.destinations["new"].handler == "file"
    assert settings.sources["destinations"] == "receiver.toml, RECEIVER_CONFIG, environment"
    assert settings.sources["destinations.new"] == "environment"


def test_destinations_of_to_are_named_by_scheme(tmp_path: Path) -> None:
    """Each URL in RECEIVER_TO is a destination named by its scheme, numbered where that name is taken."""
    environ = {"RECEIVER_TO": "file:./a\n  file:./b s3://c", "RECEIVER_CONFIG": "[destinations.s3]\nurl = 's3://d'"}
    names = [destination.name for destination in load(environ, tmp_path).resolved_destinations()]
    assert names == ["file", "file-2", "s3-2", "s3"]


def test_lists_are_written_with_spaces_or_commas(tmp_path: Path) -> None:
    """Keys and hosts are separated by spaces or commas in a variable, and may be lists in TOML."""
    environ = {
        "RECEIVER_KEYS": f"{KEY}1, {KEY}2\n",
        "RECEIVER_CONFIG": "media_hosts = ['A.example', 'http://127.0.0.1:1']\nto = ['file:./a', 'file:./b']",
    }
    settings = load(environ, tmp_path)
    assert ensure_keys(settings) == (KEY + "1", KEY + "2")
    assert settings.media_hosts == ("a.example", "http://127.0.0.1:1")
    assert settings.to == "file:./a file:./b"


@pytest.mark.parametrize(
    "environ",
    [
        {"RECEIVER_API_TOKENS": "n8n:s3cret-0123456789 reporting:s3cret-9876543210=="},
        {"RECEIVER_API_TOKENS": "n8n:s3cret-0123456789, reporting:s3cret-9876543210==\n"},
        {
            "RECEIVER_CONFIG": "[api_tokens]\nn8n = 's3cret-0123456789'\nreporting = '$TOKEN'",
            "TOKEN": "s3cret-9876543210==",
        },
        {"RECEIVER_CONFIG": "api_tokens = ['n8n:s3cret-0123456789', 'reporting:s3cret-9876543210==']"},
    ],
)
def test_callers_of_the_api_have_names_and_secrets(environ: dict[str, str], tmp_path: Path) -> None:
    """As pairs in a variable or as a table; shown by name only, and known to the logs as secrets."""
    settings = load(environ, tmp_path)
    secrets = {name: secret.text for name, secret in settings.api_tokens.items()}
    assert secrets == {"n8n": "s3cret-0123456789", "reporting": "s3cret-9876543210=="}
    assert set(secrets.values()) <= set(settings.secret_values())
    rows = {name: value for name, value, _ in show(settings)}
    assert rows["api_tokens"] == "n8n: ••••, reporting: ••••"
    assert "s3cret" not in repr(settings) + str(show(settings))


def test_settings_are_frozen_and_their_repr_holds_no_secret(tmp_path: Path) -> None:
    """Nothing changes a setting after the start, and printing them gives nothing away."""
    environ = {
        "COMETAPI_KEY": "s3cret-key",
        "RECEIVER_KEYS": "s3cret" * 6,
        "RECEIVER_TO": "tgram://s3cret",
        "RECEIVER_DESTINATIONS__A__TOKEN": "s3cret-token",
        "RECEIVER_DESTINATIONS__A__URL": "https://h/s3cret",
        "RECEIVER_DESTINATIONS__A__SECRET": '["s3cret-old", "s3cret-new"]',
    }
    settings = load(environ, tmp_path)
    with pytest.raises(AttributeError, match="immutable"):
        settings.port = 1  # type: ignore[misc]
    assert "s3cret" not in repr(settings) + str(settings.resolved_destinations()) + str(show(settings))
    assert set(settings.secret_values()) == {
        "s3cret-key", "s3cret" * 6, "s3cret-token", "s3cret-old", "s3cret-new",
    }  # fmt: skip


def test_show_gives_value_and_source_of_each(tmp_path: Path) -> None:
    """Each setting is shown with its value and where that came from; what is unset says what that amounts to."""
    environ = {"COMETAPI_KEY": "s" * 38, "PORT": "80", "RECEIVER_CONFIG": "[destinations.a]\nurl='file:x'\ncolor='s'"}
    rows = {name: (value, source) for name, value, source in show(load(environ, tmp_path))}
    assert rows["provider_key"] == ("set, 38 characters", "environment COMETAPI_KEY")
    assert rows["port"] == ("80", "environment PORT")
    assert rows["host"] == ("0.0.0.0", "default")  # noqa: S104 a text to compare with
    assert rows["database"] == ("sqlite:.receiver/journal.db", "default")
    assert rows["to"] == ("file:./outputs", "default")
    assert rows["destinations.a"] == ("file:x, options color", "RECEIVER_CONFIG")


def test_every_setting_is_described() -> None:
    """Each setting has a default in words, and a help that ends as a sentence."""
    found = declared(Settings).values()
    assert all(item.show(item.default) and item.help.endswith(".") for item in found)
    assert {name for item in found for name in item.known_as} == {
        "COMETAPI_KEY",
        "CRON_SECRET",
        "DATABASE_URL",
        "HTTPS_PROXY",
        "NO_PROXY",
        "PORT",
        "https_proxy",
        "no_proxy",
    }


def test_the_providers_key_is_asked_for_with_its_source() -> None:
    """Without a key the error says which variable to set and where to get one."""
    with pytest.raises(SettingsError, match=r"COMETAPI_KEY .*https://api\.cometapi\.com/console/token"):
        require_provider_key(Settings())
    for written in (" sk-1 ", "Bearer sk-1", '"bearer  sk-1"'):  # as in a header, from which it was copied
        assert require_provider_key(load({"COMETAPI_KEY": written})) == "sk-1"


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """The first start makes a key of 64 characters that only this user may read, and the next start reads it."""
    settings = Settings(data=tmp_path / "deep" / "data")
    keys = ensure_keys(settings)
    path = settings.data / "keys"
    assert ensure_keys(settings) == keys
    assert len(keys[0]) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in settings.data.iterdir()] == ["keys"]


def test_two_processes_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    """Many first starts at the same moment end with one and the same key."""
    script = f"from receiver.settings import *; print(ensure_keys(Settings(data={str(tmp_path / 'data')!r})))"
    started = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert len({process.communicate()[0] for process in started}) == 1
    assert all(process.returncode == 0 for process in started)


def test_keys_in_the_file_are_newest_last(tmp_path: Path) -> None:
    """A person rotates keys by adding a line at the end."""
    (tmp_path / "keys").write_text(f"{KEY}1\n\n{KEY}2\n")
    assert ensure_keys(Settings(data=tmp_path)) == (KEY + "1", KEY + "2")


@pytest.mark.parametrize("database", ["postgresql://u@h/d", "s3://acme/mj", "none"])
def test_no_key_is_made_up_where_others_need_the_same(database: str, tmp_path: Path) -> None:
    """A shared database: the sentence names what set it, how to make a key, and the way back; nothing is written."""
    settings = load({"DATABASE_URL": database, "RECEIVER_DATA": str(tmp_path / "data")}, tmp_path)
    with pytest.raises(SettingsError, match=r"that DATABASE_URL names .* openssl rand -hex 32, once, .*=sqlite:"):
        ensure_keys(settings)
    assert not (tmp_path / "data").exists()


def test_keys_made_for_a_file_go_on_with_a_database(tmp_path: Path) -> None:
    """Callback URLs on their way stay good: the sentence says where their keys lie."""
    ensure_keys(Settings(data=tmp_path))
    settings = load({"RECEIVER_DATABASE": "postgresql://u@h/d", "RECEIVER_DATA": str(tmp_path)}, tmp_path)
    with pytest.raises(SettingsError, match=re.escape(f'RECEIVER_KEYS="$(cat {tmp_path}/keys)"')):
        ensure_keys(settings)


@pytest.mark.parametrize("url", ["postgresql://receiver:receiver@h/d", "postgres://u:postgres@h/d", "postgres://u@h/d"])
def test_a_password_that_is_a_word_of_ours_hides_no_line(url: str, tmp_path: Path) -> None:
    """Logs leave out what is secret wherever it stands; `receiver` stands everywhere."""
    assert load({"RECEIVER_DATABASE": url}, tmp_path).secret_values() == ()


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 40])
def test_a_damaged_key_file_is_told_and_left_alone(content: bytes, tmp_path: Path) -> None:
    """A key file without usable keys stops the start with its path, and is not overwritten."""
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"keys .*delete"):
        ensure_keys(Settings(data=tmp_path))
    assert path.read_bytes() == content


def test_a_short_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    """A key under 32 bytes is named by its position, with the command that makes a good one."""
    with pytest.raises(SettingsError, match=r"Key 2 in RECEIVER_KEYS has 6 bytes .*openssl rand -hex 32") as caught:
        ensure_keys(load({"RECEIVER_KEYS": f"{KEY} s3cret"}, tmp_path))
    assert "s3cret" not in str(caught.value)


def test_an_unwritable_data_folder_is_told(tmp_path: Path) -> None:
    """Where no key can be kept, the error names the path and the two ways out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"file/keys cannot .*RECEIVER_DATA .*RECEIVER_KEYS"):
        ensure_keys(Settings(data=tmp_path / "file"))


PLATFORMS = [
    ({"DYNO": "web.1"}, "heroku config:set RECEIVER_KEYS=$(openssl rand -hex 32)"),
    ({"K_SERVICE": "mj"}, "gcloud run services update mj --update-env-vars RECEIVER_KEYS=$(openssl rand -hex 32)"),
    ({"AWS_LAMBDA_FUNCTION_NAME": "mj"}, "aws lambda update-function-configuration --function-name mj --environment"),
    ({"VERCEL": "1"}, "openssl rand -hex 32 | vercel env add RECEIVER_KEYS production"),
    (
        {"RENDER": "true", "RENDER_SERVICE_ID": "srv-1"},
        "https://api.render.com/v1/services/srv-1/env-vars/RECEIVER_KEYS",
    ),
]


@pytest.mark.parametrize(("environ", "command"), PLATFORMS)
def test_where_the_disk_vanishes_the_start_stops_with_commands(
    environ: dict[str, str], command: str, tmp_path: Path
) -> None:
    """On such a platform no key is made and no file holds the journal; what to type is said for that platform."""
    settings = load({**environ, "RECEIVER_DATA": str(tmp_path)}, tmp_path)
    with pytest.raises(SettingsError) as caught:
        check_platform(settings)
    keys, database = str(caught.value).splitlines()
    assert command in keys
    assert "RECEIVER_DISK=persistent" in database
    with pytest.raises(SettingsError, match="RECEIVER_KEYS is not set"):
        ensure_keys(settings)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(("environ", "_command"), PLATFORMS)
def test_keys_and_a_lasting_disk_let_it_start(environ: dict[str, str], _command: str, tmp_path: Path) -> None:
    """With RECEIVER_KEYS only the database is left to complain about; with a persistent disk nothing is."""
    with pytest.raises(SettingsError) as caught:
        check_platform(load({**environ, "RECEIVER_KEYS": KEY}, tmp_path))
    assert "RECEIVER_KEYS" not in str(caught.value)
    settings = load({**environ, "RECEIVER_DISK": "persistent", "RECEIVER_DATA": str(tmp_path)}, tmp_path)
    check_platform(settings)
    assert ensure_keys(settings)


@pytest.mark.parametrize(("environ", "command"), PLATFORMS)
def test_with_postgresql_the_disk_may_vanish(environ: dict[str, str], command: str, tmp_path: Path) -> None:
    """The journal is elsewhere then; keys must be given all the same, and pictures go into a bucket."""
    environ = {**environ, "DATABASE_URL": "postgres://u@h/d"}
    with pytest.raises(SettingsError) as caught:
        check_platform(load(environ, tmp_path))
    keys, media, destination = str(caught.value).splitlines()
    assert command in keys
    assert media.startswith("RECEIVER_MEDIA: archived pictures would be in the folder .receiver/media, and files on ")
    assert destination.startswith(
        "RECEIVER_TO: no destination is named, so results would be saved in the folder outputs"
    )
    environ |= {"RECEIVER_KEYS": KEY, "RECEIVER_MEDIA": "s3://acme/mj"}
    check_platform(load({**environ, "RECEIVER_TO": "s3://acme/results"}, tmp_path))
    check_platform(load(environ, tmp_path), functions=True)


def test_an_ordinary_machine_may_start() -> None:
    """Where no such platform is known, nothing stops the start."""
    check_platform(load({}))


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("90d", 90 * 86400, "90d"),
        ("12h", 43200, "12h"),
        ("1000d", 1000 * 86400, "1000d"),
        ("0", 0, "forever"),
        ("forever", 0, "forever"),
        ("For ever", 0, "forever"),
    ],
)
def test_how_long_things_are_kept(text: str, seconds: float, shown: str, tmp_path: Path) -> None:
    """As any length of time, also of years, or for ever."""
    settings = load({"RECEIVER_KEEP_MEDIA": text}, tmp_path)
    assert settings.keep_media == seconds
    assert {name: value for name, value, _ in show(settings)}["keep_media"] == shown


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "99999999d", "true"])
def test_a_wrong_age_is_told(text: str, tmp_path: Path) -> None:
    """With what could be written instead."""
    assert "or forever (0 means that too)" in problem({"RECEIVER_KEEP_MEDIA": text}, tmp_path)
