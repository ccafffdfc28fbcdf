"""Faults of the submit's answer (PROTOCOL.md §4), in the order of their precedence: the first that answers wins."""

import re
from dataclasses import replace
from random import Random

from receiver.simulator import answers
from receiver.simulator.answers import Answer
from receiver.simulator.chance import dice
from receiver.simulator.course import Course, delayed
from receiver.simulator.faults.fault import Fault, Submission
from receiver.simulator.prompts import scene_words

REFUSED_AT_FIRST = 2
"""Submits that are turned away before one is accepted."""

SLOW = 5.0
"""Simulated seconds until a slow answer."""


def _unauthorized(submission: Submission) -> Answer:
    return answers.unauthorized()


def _validation(submission: Submission) -> Answer:
    return answers.validation()


def _banned_word(submission: Submission) -> Answer:
    words = re.findall(r"\w+", scene_words(submission.prompt)) or [submission.prompt]
    return answers.banned_word(submission.prompt, max(words, key=len))


def _ambiguous_created(submission: Submission) -> Answer:
    submission.accept()
    return answers.relay_error(answers.AMBIGUOUS, "do_request_failed")


def _ambiguous_lost(submission: Submission) -> Answer:
    return answers.relay_error(answers.AMBIGUOUS, "do_request_failed")


def _submit_500(submission: Submission) -> Answer:
    return answers.server_error()


def _submit_html(submission: Submission) -> Answer:
    submission.accept()
    return answers.html_page(524, "A timeout occurred")


def _system_error(submission: Submission) -> Answer:
    return answers.failed(submission.properties)


def _saturated(submission: Submission) -> Answer | None:
    return answers.saturated() if submission.number <= REFUSED_AT_FIRST else None


def _no_channel(submission: Submission) -> Answer | None:
    return answers.no_channel() if submission.number <= REFUSED_AT_FIRST else None


def _no_account(submission: Submission) -> Answer | None:
    return answers.no_account() if submission.number <= REFUSED_AT_FIRST else None


def _queue_full(submission: Submission) -> Answer | None:
    full = submission.number <= REFUSED_AT_FIRST
    return answers.queue_full(submission.properties) if full else None


def _existed(submission: Submission) -> Answer | None:
    return submission.existing()


def _queued(submission: Submission) -> Answer:
    waiting = dice("queue", submission.number).randint(1, 5)
    return answers.queued(submission.accept(), waiting, submission.properties)


def _start_later(course: Course, chance: Random) -> Course:
    return delayed(course, chance.uniform(3.0, 8.0))


def _slow(answer: Answer) -> Answer:
    return replace(answer, after=SLOW)


def _numeric(answer: Answer) -> Answer:
    body = answer.body
    if isinstance(body, dict) and str(body.get("result")).isdigit():
        return replace(answer, body={**body, "result": int(body["result"])})
    return answer


FAULTS = (
    Fault("unauthorized", "Every submit is answered 401, as if the key were wrong.", answer=_unauthorized),
    Fault("validation", "Every submit is answered with code 4, bad parameters.", answer=_validation),
    Fault("banned_word", "Every submit is answered with code 24 and the word.", answer=_banned_word),
    Fault(
        "ambiguous_created",
        "Every submit is answered 400 with code 5 although the task was made and runs.",
        answer=_ambiguous_created,
    ),
    Fault(
        "submit_html",
        "Every submit is answered 524 with an HTML page although the task was made and runs.",
        answer=_submit_html,
    ),
    Fault(
        "ambiguous_lost",
        "Every submit is answered 400 with code 5 and no task was made.",
        answer=_ambiguous_lost,
    ),
    Fault("submit_500", "Every submit is answered 500 and no task was made.", answer=_submit_500),
    Fault("system_error", "Every submit is answered with code 9 and no task was made.", answer=_system_error),
    Fault("saturated", "The first two submits are answered 429 with code 30.", answer=_saturated),
    Fault("no_channel", "The first two submits are answered 503, no channel for this model.", answer=_no_channel),
    Fault("no_account", "The first two submits are answered with code 3, no account is free.", answer=_no_account),
    Fault(
        "queue_full",
        "The first two submits are answered with code 23, the queue is full.",
        answer=_queue_full,
    ),
    Fault(
        "existed",
        "Every submit is answered with code 21 and an old task that already has the picture.",
        answer=_existed,
    ),
    Fault(
        "queued",
        "Every submit is answered with code 22 and its task starts some seconds later.",
        answer=_queued,
        course=_start_later,
    ),
    Fault("slow_answer", "Every submit is answered 5 seconds late, after the first callbacks.", answered=_slow),
    Fault("numeric_result", "Task ids in submit answers are numbers instead of strings.", answered=_numeric),
)
