"""What goes wrong by name, alone and together."""

from itertools import combinations

import pytest
from simulators import PROMPT, kind, payload, running

from receiver.simulator import FAULTS, PROFILES
from receiver.simulator.timeline import TERMINAL


async def test_queued() -> None:
    """A queued task is answered with 22 and starts some seconds later than others."""
    async with running(faults=["queued"]) as run:
        answer = (await run.submit()).json()
        assert (answer["code"], kind(answer["result"])) == (22, "string")
        await run.hooks.until_end()
        body = run.hooks.bodies[-1]
        assert body["id"] == answer["result"]
        assert body["startTime"] - body["submitTime"] > 3500


async def test_queue_full() -> None:
    """The first two submits find the queue full, the third is accepted."""
    async with running(faults=["queue_full"]) as run:
        answers = [(await run.submit()).json() for _ in range(3)]
        assert [answer["code"] for answer in answers] == [23, 23, 1]
        assert answers[0]["result"] is None
        assert len(run.simulator.submits) == 3


@pytest.mark.parametrize(
    ("fault", "status", "name"),
    [
        ("banned_word", 200, "submit_04_banned_24.json"),
        ("validation", 200, "submit_07_validation_4.json"),
        ("unauthorized", 401, "error_06_openai_style_401.json"),
        ("ambiguous_created", 400, "error_02_relay_upstream_timeout_400.json"),
        ("ambiguous_lost", 400, "error_02_relay_upstream_timeout_400.json"),
        ("saturated", 429, "error_03_relay_saturated_429.json"),
        ("no_channel", 503, "error_07_comet_503_no_channel.json"),
        ("no_account", 200, "submit_08_no_account_3.json"),
        ("system_error", 200, "submit_09_failure_9.json"),
    ],
)
async def test_refusals_like_the_recorded(fault: str, status: int, name: str) -> None:
    """A refused submit has the body of the recorded refusal and is noted all the same."""
    async with running(faults=[fault]) as run:
        answer = await run.submit()
        assert answer.status_code == status
        recorded = payload(name) | ({"result": None} if fault == "banned_word" else {})  # PROTOCOL.md §13.7
        assert kind(answer.json()) == kind(recorded)
        assert answer.json().get("code") == payload(name).get("code")
        assert len(run.simulator.submits) == 1


async def test_banned_word_is_in_the_prompt() -> None:
    """The banned word named is one of the prompt's."""
    async with running(faults=["banned_word"]) as run:
        facts = (await run.submit()).json()["properties"]
        assert facts["bannedWord"] in facts["promptEn"]


async def test_ambiguous() -> None:
    """After the same ambiguous answer one fault's task runs and calls back, the other's never existed."""
    async with running(faults=["ambiguous_created"]) as created, running(faults=["ambiguous_lost"]) as lost:
        assert (await created.submit()).json() == (await lost.submit()).json()
        await created.hooks.until_end()
        task_id = created.hooks.bodies[0]["id"]
        assert (await created.fetch(task_id))["status"] == "SUCCESS"
        assert lost.hooks.bodies == []


@pytest.mark.parametrize("profile", PROFILES)
async def test_failure(profile: str) -> None:
    """A failing task ends without a picture, with a reason and no progress."""
    async with running(profile=profile, faults=["failure"]) as run:
        await run.submit()
        await run.hooks.until_end()
        body = run.hooks.bodies[-1]
        assert (body["status"], body["progress"], body["failReason"]) == ("FAILURE", "", "任务超时")
        assert body["imageUrl"] is None


async def test_hook_stripped() -> None:
    """A stripped hook is never called, yet the task ends."""
    async with running(faults=["hook_stripped"]) as run:
        await run.fetch_until(await run.task_id(), lambda task: task["status"] == "SUCCESS")
        assert run.hooks.bodies == []
        assert run.simulator.callbacks == []


async def test_duplicated() -> None:
    """Every callback comes twice."""
    async with running(faults=["duplicated"]) as run:
        await run.submit()
        await run.hooks.until_end(2)
        assert len(run.hooks.bodies) == 18
        assert all(run.hooks.told.count(told) == 2 for told in run.hooks.told)


async def test_dropped() -> None:
    """The end is never called back."""
    async with running(faults=["dropped"]) as run:
        await run.fetch_until(await run.task_id(), lambda task: task["status"] == "SUCCESS")
        await run.hooks.until(lambda hooks: len(hooks.told) == 8)
        assert all(status != "SUCCESS" for status, _ in run.hooks.told)


async def test_reordered() -> None:
    """The end is called back before some of the progress, and nothing is told before it happened."""
    async with running(faults=["reordered"]) as run:
        await run.submit()
        await run.hooks.until(lambda hooks: len(hooks.told) == 9)
        statuses = [status for status, _ in run.hooks.told]
        assert 0 < statuses.index("SUCCESS") < 8


async def test_late() -> None:
    """Callbacks lag 20 s behind: fetch shows the end before the callback of it comes."""
    async with running(faults=["late"], speed=50) as run:
        await run.fetch_until(await run.task_id(), lambda task: task["status"] == "SUCCESS")
        assert ("SUCCESS", "100%") not in run.hooks.told
        await run.hooks.until_end()


PRECEDENCE = (
    ("unauthorized", 401, None),
    ("validation", 200, 4),
    ("banned_word", 200, 24),
    ("ambiguous_created", 400, 5),
    ("submit_html", 524, None),
    ("ambiguous_lost", 400, 5),
    ("submit_500", 500, None),
    ("system_error", 200, 9),
    ("saturated", 429, 30),
    ("no_channel", 503, None),
    ("no_account", 200, 3),
    ("queue_full", 200, 23),
    ("existed", 200, 21),
    ("queued", 200, 22),
)
SHOW_A_TASK = {"ambiguous_created", "submit_html", "existed", "queued"}
"""After the answer the list shows one: a new task, or the old one that the answer names."""


@pytest.mark.parametrize(("stronger", "weaker"), list(combinations(PRECEDENCE, 2)))
async def test_precedence(stronger: tuple[str, int, int | None], weaker: tuple[str, int, int | None]) -> None:
    """Of two faults that answer a submit the stronger does, in whatever order they are named."""
    async with running(faults=[weaker[0], stronger[0]]) as run:
        answer = await run.submit()
        body = answer.json() if "json" in answer.headers["content-type"] else {}
        assert (answer.status_code, body.get("code")) == stronger[1:]
        tasks = (await run.client.get("/mj/task/list")).json()
        assert len(tasks) == (stronger[0] in SHOW_A_TASK)


@pytest.mark.parametrize("profile", PROFILES)
async def test_all_faults_at_once(profile: str) -> None:
    """Every fault together is still an answer."""
    async with running(profile=profile, faults=FAULTS) as run:
        assert (await run.submit()).status_code == 401


@pytest.mark.parametrize("pair", list(combinations(["failure", "duplicated", "dropped", "reordered", "late"], 2)))
async def test_pairs_of_callback_faults(pair: tuple[str, str]) -> None:
    """Faults of the timeline and of callbacks add up."""
    async with running(faults=pair) as run:
        end = "FAILURE" if "failure" in pair else "SUCCESS"
        await run.fetch_until(await run.task_id(), lambda task: task["status"] == end)
        calls = 2 if "failure" in pair else 9
        expected = (calls - ("dropped" in pair)) * (2 if "duplicated" in pair else 1)
        await run.hooks.until(lambda hooks: len(hooks.told) == expected)
        assert all(status != end for status, _ in run.hooks.told) == ("dropped" in pair)


# --- faults that each show in one place ----------------------------------------------------------------------


def test_every_fault_is_described_in_one_sentence() -> None:
    """Names are plain, and each description is a sentence for people who choose faults."""
    for name, description in FAULTS.items():
        assert name.replace("_", "").isalnum()
        assert description.endswith(".")
        assert description.count(". ") == 0


@pytest.mark.parametrize("fault", ["saturated", "no_channel", "no_account"])
async def test_the_third_submit_is_taken(fault: str) -> None:
    """What passes with time is over at the third submit."""
    async with running(faults=[fault]) as run:
        codes = [(await run.submit()).json().get("code") for _ in range(3)]
        assert codes[2] == 1
        assert 1 not in codes[:2]


async def test_submit_500() -> None:
    """A 500 in the relay's words, and no task."""
    async with running(faults=["submit_500"]) as run:
        answer = await run.submit()
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "comet_api_error")
        assert answer.json()["error"]["code"] != "invalid_request"
        assert run.simulator.callbacks == []


async def test_submit_html() -> None:
    """An HTML page with 524, and a task that runs all the same."""
    async with running(faults=["submit_html"]) as run:
        answer = await run.submit()
        assert (answer.status_code, answer.headers["content-type"]) == (524, "text/html; charset=utf-8")
        assert answer.text.startswith("<!DOCTYPE html>")
        await run.hooks.until_end()
        assert run.hooks.told[-1] == ("SUCCESS", "100%")


@pytest.mark.parametrize(("profile", "code"), [("default", 21), ("relay", 1)])
async def test_existed(profile: str, code: int) -> None:
    """Code 21, which the relay turns into 1, with a task of somebody's that has its picture and calls nobody."""
    async with running(profile=profile, faults=["existed"]) as run:
        answer = (await run.submit()).json()
        assert kind(payload("submit_05_existed_21.json")["properties"]).items() <= kind(answer["properties"]).items()
        assert (answer["code"], answer["properties"]["status"]) == (code, "SUCCESS")
        task = await run.fetch(answer["result"])
        assert (task["status"], task["prompt"]) == ("SUCCESS", PROMPT)
        assert not task["state"]
        assert (await run.client.get(answer["properties"]["imageUrl"])).headers["content-type"] == "image/png"
        assert (await run.submit()).json()["result"] == answer["result"]
        assert run.hooks.bodies == []


async def test_slow_answer() -> None:
    """The answer takes five simulated seconds; callbacks come before it."""
    async with running(faults=["slow_answer"], speed=50) as run:
        answer = await run.submit()
        assert run.hooks.told[0] == ("SUBMITTED", "0%")
        assert run.hooks.bodies[0]["id"] == answer.json()["result"]


@pytest.mark.parametrize("profile", PROFILES)
async def test_numeric_result(profile: str) -> None:
    """The id is a number, and the same task."""
    async with running(profile=profile, faults=["numeric_result"]) as run:
        answer = (await run.submit()).json()
        assert kind(answer["result"]) == kind(payload("submit_10_numeric_result.json")["result"])
        assert (await run.fetch(answer["result"]))["id"] == str(answer["result"])


@pytest.mark.parametrize("fault", ["state_missing", "state_mangled", "no_buttons", "odd_progress"])
async def test_bodies(fault: str) -> None:
    """One thing is wrong in every callback, and the state in fetch never is."""
    async with running(faults=[fault]) as run:
        task_id = await run.task_id(state="0123456789")
        await run.hooks.until_end()
        bodies, fetched = run.hooks.bodies, await run.fetch(task_id)
        assert fetched["state"] == "0123456789"
        wrong = {
            "state_missing": all("state" not in body for body in bodies),
            "state_mangled": all(body.get("state") == "01234" for body in bodies),
            "no_buttons": all("buttons" not in body for body in [*bodies, fetched]),
            "odd_progress": all("%" not in body["progress"] for body in bodies[:-1]),
        }
        assert [name for name, found in wrong.items() if found] == [fault]
        assert run.hooks.told[-1] == ("SUCCESS", "100%")


async def test_odd_progress_in_fetch() -> None:
    """Fetch shows the same odd texts while the task runs."""
    async with running(faults=["odd_progress"], speed=20) as run:
        task = await run.fetch_until(await run.task_id(), lambda task: task["status"] == "IN_PROGRESS")
        assert "%" not in task["progress"]


async def test_foreign_token() -> None:
    """Two tasks call back with our state; only one is ours, and fetch knows whose the other is."""
    async with running(faults=["foreign_token"]) as run:
        own = await run.task_id(state="mine")
        await run.hooks.until_end(2)
        assert {body["state"] for body in run.hooks.bodies} == {"mine"}
        assert run.hooks.bodies[0]["properties"]["notifyHook"]
        (other,) = {body["id"] for body in run.hooks.bodies} - {own}
        assert next(body["id"] for body in run.hooks.bodies if body["status"] == "SUCCESS") == other
        stranger = await run.fetch(other)
        assert (stranger["state"], stranger["prompt"]) == ("somebody-else", "somebody else's prompt")
        assert (await run.fetch(own))["state"] == "mine"


async def test_banned_later() -> None:
    """The task is accepted and fails before it starts, as the recorded one did."""
    async with running(profile="csharp", faults=["banned_later"]) as run:
        assert (await run.submit()).json()["code"] == 1
        await run.hooks.until_end()
        assert kind(run.hooks.bodies[0]) == kind(payload("callback_14_csharp_failure_banned.json"))


@pytest.mark.parametrize("profile", PROFILES)
async def test_false_failure(profile: str) -> None:
    """FAILURE by callback and by fetch, and SUCCESS half a minute later by both."""
    async with running(profile=profile, faults=["false_failure"], speed=20) as run:
        task_id = await run.task_id()
        await run.fetch_until(task_id, lambda task: task["status"] == "FAILURE")
        await run.fetch_until(task_id, lambda task: task["status"] == "SUCCESS")
        await run.hooks.until(lambda hooks: ("SUCCESS", "100%") in hooks.told)
        ends = [status for status, _ in run.hooks.told if status in TERMINAL]
        assert ends[:2] == ["FAILURE", "SUCCESS"]


@pytest.mark.parametrize(
    ("fault", "status", "progress"), [("stuck_100", "IN_PROGRESS", "100%"), ("relay_timeout", "FAILURE", "100%")]
)
async def test_a_relay_that_is_wrong(fault: str, status: str, progress: str) -> None:
    """Fetch and list go on being wrong after the callback has told of the picture, which downloads."""
    async with running(profile="relay", faults=[fault]) as run:
        task_id = await run.task_id()
        await run.hooks.until_end()
        task = await run.fetch_until(task_id, lambda task: task["progress"] == progress)
        assert task["status"] == status
        listed = (await run.client.post("/mj/task/list-by-condition", json={"ids": [task_id]})).json()
        assert listed[0]["status"] == status
        assert run.hooks.told[-1] == ("SUCCESS", "100%")
        assert (await run.client.get(run.hooks.bodies[-1]["imageUrl"])).headers["content-type"] == "image/png"


@pytest.mark.parametrize(("fault", "fetched"), [("forgotten", 200), ("unknown_to_fetch", 400)])
async def test_ids_that_are_not_known(fault: str, fetched: int) -> None:
    """The list leaves the id out; fetch knows it or not; callbacks come all the same."""
    async with running(faults=[fault]) as run:
        task_id = await run.task_id()
        assert (await run.client.get(f"/mj/task/{task_id}/fetch")).status_code == fetched
        assert (await run.client.post("/mj/task/list-by-condition", json={"ids": [task_id]})).json() == []
        await run.hooks.until_end()


@pytest.mark.parametrize(("fault", "status"), [("provider_500", 500), ("provider_html", 502)])
async def test_three_errors_first(fault: str, status: int) -> None:
    """Three questions are answered with an error, whichever they are, and the fourth with the truth."""
    async with running(faults=[fault]) as run:
        path = f"/mj/task/{await run.task_id()}/fetch"
        listed = await run.client.post("/mj/task/list-by-condition", json={"ids": []})
        statuses = [listed.status_code, *[(await run.client.get(path)).status_code for _ in range(3)]]
        assert statuses == [status, status, status, 200]


@pytest.mark.parametrize(("fault", "works"), [("expired_link", True), ("expired_for_good", False)])
async def test_expired_links(fault: str, works: bool) -> None:
    """Two downloads, or all, are answered 404 in Discord's words, by the relay's route as by the raw link."""
    async with running(faults=[fault]) as run:
        task = await run.fetch_until(await run.task_id(), lambda task: task["status"] == "SUCCESS")
        await run.hooks.until_end()
        links = [task["imageUrl"], run.hooks.bodies[-1]["imageUrl"], task["imageUrl"]]
        answers = [await run.client.get(link) for link in links]
        assert [answer.status_code for answer in answers] == [404, 404, 200 if works else 404]
        assert answers[0].json() == {"error": "This content is no longer available."}


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_pair_is_answered(fault: str) -> None:
    """No two faults together break the simulator: submit, fetch and list are answered, and nothing crashes."""
    for other in list(FAULTS)[list(FAULTS).index(fault) :]:
        async with running(faults=[fault, other], speed=2000) as run:
            assert (await run.submit()).status_code in {200, 400, 401, 429, 500, 503, 524}
            assert (await run.client.get("/mj/task/1/fetch")).status_code in {400, 500, 502}
            listed = await run.client.post("/mj/task/list-by-condition", json={"ids": ["1"]})
            assert listed.status_code in {200, 500, 502}
