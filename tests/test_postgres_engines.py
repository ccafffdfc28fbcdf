"""Two processes that deliver from one PostgreSQL database. `test_membership.py` has the engines' own rules."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import postgres
from journals import NOW, fill, owe, submission
from postgres import PostgresStore, asked

CLAIMER = """
import asyncio, json, sys
from receiver.deliveries import Completion
from receiver.journal import Journal
from receiver.journal.postgres import open_store

async def main(url, owner, now_ms):
    journal = Journal(await open_store(url))
    print("ready", flush=True)
    sys.stdin.readline()
    async def lane():
        while works := await journal.claim("folder", owner=owner, limit=7, now_ms=now_ms):
            for work in works:
                print(json.dumps(["begin", work.delivery.submission_id, work.delivery.id]), flush=True)
            for work in works:
                print(json.dumps(["end", work.delivery.submission_id, work.delivery.id]), flush=True)
                assert await journal.complete(Completion(
                    delivery_id=work.delivery.id, submission_id=work.delivery.submission_id, destination="folder",
                    attempt=work.delivery.attempt, owner=owner, outcome="succeeded",
                    status="succeeded", finished_ms=now_ms, due_ms=now_ms, counts=False))
    await asyncio.gather(lane(), lane(), lane())
    await journal.aclose()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_two_processes_share_the_work_and_nothing_twice() -> None:
    """Each delivery is attempted once, those that run one after the other included, and both processes take part."""
    store = PostgresStore(await postgres.empty_database())
    journal = await store.open()
    await fill(journal, 150)
    for number in range(1, 51):
        await owe(journal, submission(number), "task.progressed", number + 1000, percent=46, manual=True)
    pipe = asyncio.subprocess.PIPE
    claimers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLAIMER, store.url, f"claimer-{n}", str(NOW), stdin=pipe, stdout=pipe
        )
        for n in range(2)
    ]
    lines: list[tuple[int, list[str]]] = []

    async def read(number: int, output: asyncio.StreamReader) -> None:
        async for line in output:
            lines.append((number, json.loads(line)))

    for claimer in claimers:
        assert claimer.stdout is not None
        assert await claimer.stdout.readline() == b"ready\n"
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write(b"go\n")
    await asyncio.gather(*(read(n, claimer.stdout) for n, claimer in enumerate(claimers) if claimer.stdout))
    assert [await claimer.wait() for claimer in claimers] == [0, 0]
    begun = Counter(delivery for _, (what, _, delivery) in lines if what == "begin")
    assert len(begun) == 200
    assert set(begun.values()) == {1}
    assert {number for number, _ in lines} == {0, 1}
    left = await journal.deliveries(limit=999)
    assert {one.status for one in left} == {"succeeded"}
    ended = "SELECT count(*) FROM receiver.attempts WHERE outcome = 'succeeded' AND number = 1"
    assert await asked(journal, ended) == 200
    await journal.aclose()
