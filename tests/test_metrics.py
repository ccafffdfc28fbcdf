"""`/metrics` as Prometheus reads it, over real HTTP, and the dashboard and alert rules that use its names."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import httpx
import pytest
import yaml
from answering import Answering
from flows import World, world
from handbook import commands
from handbooks import region
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from servers import Command

from receiver import metrics
from receiver.clock import Clock
from receiver.deliveries import AttemptOutcome
from receiver.errors import ProviderError
from receiver.events import DISPLAY_STATUSES, TERMINAL_TYPES, Source
from receiver.metrics import METRICS, OTHER
from receiver.metrics.dashboard import alerts, dashboard
from receiver.provider import Provider
from receiver.provider.answers import OUTCOMES
from receiver.requests import KINDS

TOKEN = "t" * 16
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
OPENMETRICS = {**HEADERS, "Accept": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
BY_NAME = {item.name: item for item in METRICS}
SAMPLE = re.compile(r"\b(receiver_\w+?)(?:_bucket|_count|_sum)?(?:\{([^}]*)\})?(?![\w{])")

Samples = Counter[tuple[str, tuple[tuple[str, str], ...]]]


async def scrape(url: str) -> Samples:
    """Read the numbers of a process. They are those of all tests before, so tests look at differences."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{url}/metrics", headers=HEADERS)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = Samples()
    for family in read_text(answer.text):
        for sample in family.samples:
            samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value  # type: ignore[assignment]
    return samples


def labelled(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


async def first_snapshot(here: World) -> Samples:
    while labelled(samples := await scrape(here.url), "receiver_journal_engines") == 0:
        await here.receiver.clock.sleep(1)
    return samples


async def test_a_task_is_counted_from_its_submit_to_its_delivery(tmp_path: Path) -> None:
    """Each stage counts once, and the numbers of the journal follow."""
    async with world(tmp_path, metrics_token=TOKEN) as here:
        before = await first_snapshot(here)
        row = await here.rest((await here.submit()).id)
        after = await scrape(here.url)
        while labelled(after, "receiver_journal_submissions", status="succeeded") == 0:
            await here.receiver.clock.sleep(1)
            after = await scrape(here.url)

    def more(name: str, **labels: str) -> float:
        return labelled(after, name, **labels) - labelled(before, name, **labels)

    assert more("receiver_submissions_total", kind="imagine", door="program", outcome="accepted") == 1
    assert more("receiver_provider_requests_total", request="submit", answer="2xx") == 1
    assert more("receiver_provider_request_seconds_count", request="submit") == 1
    assert more("receiver_callbacks_total", result="accepted") == row.callbacks > 0
    assert more("receiver_callback_commit_seconds_count") == row.callbacks
    assert more("receiver_task_seconds_count", event="task.succeeded") == 1
    ended = [more("receiver_tasks_ended_total", event="task.succeeded", source=source) for source in get_args(Source)]
    assert sum(ended) == 1
    assert more("receiver_archive_files_total", outcome="archived") == len(row.media) == 1
    assert more("receiver_archive_bytes_total") == row.media[0].size
    assert more("receiver_archive_seconds_count") == 1
    delivered = more("receiver_attempts_total", destination="file", outcome="succeeded")
    assert delivered >= 1  # a second one if the file came late
    assert more("receiver_attempt_seconds_count", destination="file") == delivered
    assert more("receiver_delivery_lag_seconds_count", destination="file") == delivered
    assert more("receiver_journal_commit_seconds_count") > 0
    assert more("receiver_journal_changes_total") >= more("receiver_journal_commit_seconds_count")
    assert labelled(after, "receiver_journal_deliveries", destination="file", status="dead") == 0
    assert labelled(after, "receiver_destination_paused", destination="file") == 0
    free, size = (labelled(after, f"receiver_disk_{name}_bytes", place="data") for name in ("free", "size"))
    assert 0 < free < size


async def test_only_the_leader_shows_numbers_of_the_journal(tmp_path: Path) -> None:
    """They go with the lead, so that a sum over processes counts nothing twice."""
    async with world(tmp_path, metrics_token=TOKEN) as here:
        await first_snapshot(here)
        await here.receiver.stop_engine()
        names = {name for name, _ in await scrape(here.url)}
        assert "receiver_callbacks_total" in names
        assert {item.name for item in metrics.SNAPSHOT} & names == set()


async def test_both_formats_follow_the_rules_of_names(tmp_path: Path) -> None:
    """Counters end in `_total`, units are base units, labels have declared values."""
    async with world(tmp_path, metrics_token=TOKEN) as here, httpx.AsyncClient(trust_env=False) as client:
        await first_snapshot(here)
        await here.rest((await here.submit()).id)
        text = await client.get(f"{here.url}/metrics", headers=HEADERS)
        openmetrics = await client.get(f"{here.url}/metrics", headers=OPENMETRICS)
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    for families in (list(read_text(text.text)), list(read_openmetrics(openmetrics.text))):
        ours = {family.name: family for family in families if not family.name.startswith("process_")}
        assert set(ours) == set(BY_NAME)
        for family in ours.values():
            declared = BY_NAME[family.name]
            assert family.type == declared.kind
            for sample in family.samples:
                assert family.type != "counter" or sample.name == f"{family.name}_total"
                for label, value in sample.labels.items():
                    assert label == "le" or value in (declared.labels[label] or (value,))
    for item in METRICS:
        assert re.fullmatch(r"receiver(_[a-z]+)+", item.name)
        assert not re.search(r"_(ms|milliseconds|minutes|hours|percent|ratio|kib|mb|total)(_|$)", item.name)
        assert (item.kind == "histogram") == bool(item.buckets)
        assert item.kind != "histogram" or item.name.endswith("_seconds")


async def test_a_stranger_reads_nothing(tmp_path: Path) -> None:
    """The address needs the token, whatever else the request says."""
    async with world(tmp_path, metrics_token=TOKEN) as here, httpx.AsyncClient(trust_env=False) as client:
        for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"):
            answer = await client.get(f"{here.url}/metrics", headers={"Authorization": given.encode()})
            assert answer.status_code == 401
            assert "receiver_" not in answer.text


async def test_without_a_setting_the_address_does_not_exist(tmp_path: Path) -> None:
    """Nobody looks for what was not asked for."""
    async with world(tmp_path) as here, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{here.url}/metrics", headers=HEADERS)).status_code == 404


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_port_of_its_own(tmp_path: Path, command: str) -> None:
    """It has the metrics and nothing else. `/metrics` stays away from the public address."""
    env = {"COMETAPI_KEY": "k", "RECEIVER_PORT": "0", "RECEIVER_METRICS_PORT": "0"}
    with Command(command, folder=tmp_path, env=env) as process:
        public = process.out.line("Receiver listens").split()[3].rstrip(";") if command == "serve" else None
        url = process.out.line("Metrics: ").split()[1]
        answer = httpx.get(url, trust_env=False)
        assert "receiver_build_info" in answer.text
        assert httpx.get(url.removesuffix("/metrics") + "/readyz", trust_env=False).status_code == 404
        if public:
            assert httpx.get(f"{public}/metrics", trust_env=False).status_code == 404


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (httpx.Response(503, json={}), "5xx"),
        (httpx.ConnectError("no"), "broken"),
        (httpx.ReadTimeout("late"), "timeout"),
    ],
)
async def test_requests_without_an_answer_are_counted(answer: httpx.Response | Exception, label: str) -> None:
    """A provider that fails shows as such."""

    def respond(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    metrics.switch_on()
    provider = Provider(base_url="http://p", key="k", clock=Clock(), pool=Answering(respond))
    before = list(metrics.REQUESTS.samples.get(("submit", label), [0]))
    with pytest.raises(ProviderError):
        await provider.submit("imagine", {"prompt": "a"}, speed=None)
    assert metrics.REQUESTS.samples["submit", label][0] == before[0] + 1
    await provider.aclose()


def test_a_value_outside_its_set_is_other() -> None:
    """No word from outside becomes a label."""
    metrics.switch_on()
    metrics.CALLBACKS.add("<script>")
    assert metrics.CALLBACKS.samples[OTHER,][0] >= 1
    assert ("<script>",) not in metrics.CALLBACKS.samples


def test_the_closed_sets_are_those_of_the_code() -> None:
    """Every outcome has a label of its own."""
    assert set(metrics.SUBMISSIONS.labels["kind"]) == set(KINDS)
    assert set(metrics.SUBMISSIONS.labels["outcome"]) == {*OUTCOMES, "unreachable"}
    assert set(metrics.ENDS.labels["source"]) == set(get_args(Source))
    assert set(metrics.ENDS.labels["event"]) == set(TERMINAL_TYPES)
    assert set(metrics.TASKS.labels["status"]) == set(DISPLAY_STATUSES)
    assert set(metrics.ATTEMPTS.labels["outcome"]) == {*get_args(AttemptOutcome), "refused"} - {"vanished"}


def test_every_metric_is_in_the_handbook() -> None:
    """The page has a row for each."""
    table = region("metrics", "metrics")
    assert [item.shown_name for item in METRICS if f"| `{item.shown_name}` |" not in table] == []


# Dashboard and alert rules


def queries() -> Iterator[str]:
    for panel in json.loads(dashboard())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (rule["expr"] for group in yaml.safe_load(alerts())["groups"] for rule in group["rules"])


def test_dashboard_and_rules_use_names_that_exist() -> None:
    """Each name, label and value in a query is declared."""
    used = set()
    for query in queries():
        for name, matchers in SAMPLE.findall(query):
            item = BY_NAME[name.removesuffix("_total")]
            assert item.kind != "counter" or name.endswith("_total")
            used.add(item.name)
            for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                assert set(values.split("|")) <= set(item.labels[label])
        for grouping in re.findall(r"by \(([^)]*)\)", query):
            labels = {label.strip() for label in grouping.split(",")}
            assert labels <= {"le", "instance", *(label for item in METRICS for label in item.labels)}
    assert used == set(BY_NAME)


def test_rules_name_commands_that_exist() -> None:
    """Each rule has a sentence and the next step."""
    known = {name for name, _ in commands()}
    for rule in yaml.safe_load(alerts())["groups"][0]["rules"]:
        assert rule["annotations"]["summary"].endswith(".")
        for command in re.findall(r"`?(receiver [a-z]+(?: [a-z]+)?)", rule["annotations"]["description"]):
            assert any(name.startswith(command) or command.startswith(name) for name in known), command


def test_panels_do_not_overlap() -> None:
    """Every panel has a place of its own on the dashboard's 24 columns."""
    taken = Counter(
        (x, y)
        for panel in json.loads(dashboard())["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    )
    assert set(taken.values()) == {1}
    assert max(x for x, _ in taken) < 24
