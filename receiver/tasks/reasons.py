"""Advice on a failure in the provider's words, which may be Chinese."""

from __future__ import annotations

import re

_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"subscription (?:is )?(?:required|paused|expired)|out of (?:fast |relax |turbo )?(?:hours|credits|time)"
        r"|quota[ _](?:is )?(?:not[ _]enough|exceeded|exhausted|insufficient|used up)|exceeded your \w* ?quota"
        r"|(?:insufficient|not enough) (?:\w+ )?(?:balance|quota|credits?)|credits? (?:exhausted|used up)"
        "|额度不足|余额不足",
        "Top up at the provider, then submit it again.",
    ),
    (
        r"invalid (?:image )?(?:link|url)\b|无效链接|图片\w{0,4}失败"
        r"|(?:could not|couldn.t|can(?:no|.)t|failed to|unable to|error)"
        r" (?:download|load|fetch|open|validate|read|get)\w* (?:\w+ ){0,3}(?:image|picture|link|url)",
        "Check that everybody can open the pictures the prompt names, and submit it again.",
    ),
    (
        r"banned (?:prompt|word)|sensitive word|ai moderator|community (?:standards|guidelines)|content policy"
        r"|(?:output|image|content|safety) filter|(?:image|prompt) (?:was |is )?(?:denied|blocked|rejected|refused)"
        r"|violates? (?:\w+ ){0,3}(?:policy|guidelines|standards|rules)|敏感词|违规|违禁",
        "The provider refuses what the prompt says: reword it and submit it again.",
    ),
    (
        r"(?:invalid|unrecogni[sz]ed|unknown|unsupported) (?:parameter|argument|value)"
        "|无效参数|参数(?:错误|无效|有误)",
        "Correct what begins with -- at the prompt's end, and submit it again.",
    ),
    (
        r"queue (?:is )?full|too many (?:tasks|jobs|requests)|队列已满|并发",
        "The provider is busy: submit it again later.",
    ),
    (
        r"\A\W{0,3}(?:the )?(?:upstream |provider )?(?:task|job|request)?\W{0,3}(?:has |was )?timed?[ -]?out\b"
        r"|任务\w{0,2}超时",
        "The provider ran out of time: submit it again.",
    ),
)
"""Advice by whole phrases of Midjourney and its proxies. A reason that has none of them gets no advice.
The patterns are compiled when they are first used: it takes 4 ms, and most commands need none."""
_QUOTED = re.compile(r'"[^"]{0,500}"|`[^`]{0,500}`|“[^”]{0,500}”|「[^」]{0,500}」')
_OTHERWISE = "The provider said so in Chinese. Submit it again, and if that fails as well, change the prompt."


def advice_on(reason: str, prompt: str = "") -> str:
    """Return what to do about a failure, or "". Words that the reason repeats of the prompt decide nothing."""
    own = _QUOTED.sub(" ", reason.replace(prompt, " ") if prompt else reason)
    return next((advice for pattern, advice in _ADVICE if re.search(pattern, own, re.IGNORECASE)), "")


def is_chinese(text: str) -> bool:
    """Return True if a text has Chinese characters."""
    return any("\u3400" <= char <= "\u9fff" for char in text)  # a pattern of this range takes 4 ms to compile


def in_english(reason: str, prompt: str = "") -> str:
    """Return the reason, followed by an English sentence if it is in Chinese and not only because of the prompt.

    A sentence of ours that quotes the provider says by itself what to do.
    """
    own = reason.replace(prompt, " ") if prompt else reason
    if not is_chinese(_QUOTED.sub(" ", own)):
        return reason
    return f"{reason.rstrip('.。')}. {advice_on(reason, prompt) or _OTHERWISE}"
