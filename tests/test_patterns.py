"""Every regular expression of the product takes time linear in its input, however hostile that is.

Patterns are found in the source, so that a new one is tested without a line here. Each runs by the methods that the
source uses, on texts made of its own characters and of common ones.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import receiver
from receiver.intake import followups
from receiver.tasks import MAX_TEXT, reasons

ROOT = Path(receiver.__file__).parent
SWEEPS = frozenset({"sub", "subn", "split", "findall", "finditer"})
METHODS = SWEEPS | {"match", "search", "fullmatch"}
GREATEST = MAX_TEXT
"""Length of the longest word of the provider. Callers may send 6,000 characters. Longer texts, such as log lines and
bodies, need no greater length here: a pattern that is not linear takes seconds for these, and shows at this length."""
OWN = 1_000
"""Length of the longest text of a pattern that reads what its own operator or developer wrote."""
OWNERS = ("handbook/", "journal/", "simulator/profiles.py", "bucket/options.py")
"""Modules whose patterns read handbook pages, SQL files, payload templates and settings only."""
LENGTHS = (8, 16, 24, 32, 40, 56, 80, 128, 500, 2_000, GREATEST)
"""Short ones first, so that an exponential pattern shows before it runs away."""
FLOOR = 0.003
"""Seconds of the processor that any run may take."""
ENOUGH = 2_000
"""A pattern that is not linear takes two million steps for this many characters."""
FAST = 0.0001
"""Seconds in which no pattern takes that many steps."""
COMMON = ("a", "1", " ", "\n", '"', "<", "[", "(", "画", "-", "/", "\\")
ELSEWHERE = {
    ("bucket/errors.py", "compile"),  # a table, whose patterns are found in the module
    ("tasks/reasons.py", "search"),  # a table of texts
    ("journal/rows.py", "sub"),  # a table for our own SQL
    ("requests.py", "fullmatch"),  # named by calls of `_matching`
    ("intake/followups.py", "fullmatch"),  # both are a table of names
    ("intake/followups.py", "compile"),
}
"""Patterns that are made of local names: (module, method)."""


@dataclass(frozen=True)
class Found:
    """A pattern and the ways it is used in: at the start, anywhere, or everywhere."""

    place: str
    pattern: re.Pattern[Any]
    methods: frozenset[str]

    def __str__(self) -> str:
        return f"{self.place} {self.pattern.pattern!r}"

    @property
    def longest(self) -> int:
        return OWN if self.place.startswith(OWNERS) else GREATEST


def reachable(value: Any, depth: int = 3) -> Iterator[re.Pattern[Any]]:
    """Yield the patterns in a value of a module."""
    if isinstance(value, re.Pattern):
        yield value
    elif depth and isinstance(value, dict | tuple | list | frozenset | set):
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from reachable(item, depth - 1)


def calls(tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """Yield (name called on, method, call) of everything that may be a method of `re` or of a pattern."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if node.func.attr in METHODS | {"compile"}:
                yield name, node.func.attr, node


def find_all(room: str = "**/*.py") -> tuple[list[Found], set[tuple[str, str]]]:
    """Return every pattern of the room, and the calls whose pattern no reading of the source can know."""
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.glob(room))}
    found: dict[tuple[str, Any, int], set[str]] = {}
    patterns: dict[tuple[str, Any, int], re.Pattern[Any]] = {}
    unknown = set()

    def note(place: str, pattern: re.Pattern[Any], methods: set[str]) -> None:
        key = (place, pattern.pattern, pattern.flags)
        patterns[key] = pattern
        found.setdefault(key, set()).update((methods & METHODS) or {"search"})

    for place, tree in trees.items():
        if Path(place).name == "__main__.py":
            continue  # it runs the command
        module = importlib.import_module(".".join(("receiver", *Path(place).with_suffix("").parts)))
        used: dict[str, set[str]] = {}
        called = list(calls(tree))
        for name, method, _ in called:
            used.setdefault(name if name.isupper() else "", set()).add(method)
        local = used.get("", set())
        for name, value in vars(module).items():
            for pattern in reachable(value):
                note(place, pattern, used.get(name, set()) if isinstance(value, re.Pattern) else local)
        known = {text for _, text, _ in found}
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "pattern":  # of msgspec's `Meta`
                text = eval(compile(ast.Expression(node.value), place, "eval"), vars(module))  # noqa: S307 - our source
                note(place, re.compile(text), {"search"})
        for name, method, call in called:
            if name != "re":
                continue
            try:
                text = eval(compile(ast.Expression(call.args[0]), place, "eval"), vars(module))  # noqa: S307 - our source
            except NameError:
                unknown.add((place, method))
                continue
            if method != "compile" or text not in known:
                note(place, re.compile(text), local if method == "compile" else {method})
    for node in ast.walk(trees.get("requests.py", ast.parse(""))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_matching":
            note("requests.py", re.compile(ast.literal_eval(node.args[0])), {"fullmatch"})
    for words, custom_id in followups._NAMES.items() if "intake/followups.py" in trees else ():
        note("intake/followups.py", re.compile(words), {"fullmatch"})
        note("intake/followups.py", re.compile(custom_id.replace(r"\1", "1"), re.IGNORECASE), {"search"})
    for words, _ in reasons._ADVICE if "tasks/reasons.py" in trees else ():
        note("tasks/reasons.py", re.compile(words, re.IGNORECASE), {"search"})
    return [Found(key[0], patterns[key], frozenset(methods)) for key, methods in found.items()], unknown


def words(parsed: Any) -> Iterator[str]:
    """Yield the literal texts in a parsed pattern, and a character of each set."""
    run = ""
    for op, value in parsed:
        if str(op) == "LITERAL":
            run += chr(value)
            continue
        yield run
        run = ""
        if str(op) == "RANGE":
            yield chr(value[0])
        for inner in value if isinstance(value, tuple | list) else ():
            if isinstance(inner, re._parser.SubPattern):  # type: ignore[attr-defined]
                yield from words(inner)
            elif isinstance(inner, list):
                for item in inner:
                    yield from words(item if isinstance(item, re._parser.SubPattern) else [item])  # type: ignore[attr-defined]
        if str(op) == "IN":
            yield from words([item for pair in value for item in (pair, ("AT", None))])
    yield run


def shapes(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str]]:
    """Yield (start, what repeats): each character, each literal text, each two in turn, and each after another."""
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    found = [word for word in words(re._parser.parse(source, pattern.flags & ~re.ASCII & ~re.UNICODE)) if word]  # type: ignore[attr-defined]
    own = list(dict.fromkeys(found))[:6]
    letters = list(dict.fromkeys([*own, *COMMON]))
    yield from (("", piece) for piece in (*letters, "".join(own)) if piece)
    yield from (("", one + other) for one, other in itertools.permutations([*own, *COMMON[:3]], 2))
    yield from ((one, other) for one in own for other in [*own, *COMMON[:3]])
    yield from ((one + other, third) for one, other, third in itertools.permutations(own[:3], 3))


def seconds(pattern: re.Pattern[Any], method: str, text: str) -> float:
    given = text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text
    run = getattr(pattern, "findall" if method in SWEEPS else method)
    begun = time.thread_time()
    run(given)
    return time.thread_time() - begun


def worst(found: Found) -> str | None:
    """Return the shape whose time grows faster than its length, with its figures. A slow run is tried three times."""
    for (start, piece), method in itertools.product(shapes(found.pattern), sorted(found.methods)):
        before = 0.0
        for length in LENGTHS:
            if length > found.longest:
                break
            text = start + (piece * (length // len(piece) + 1))[:length] + "\0"
            taken = seconds(found.pattern, method, text)
            if taken > 8 * before + FLOOR:
                taken = min(taken, *(seconds(found.pattern, method, text) for _ in range(2)))
            if taken > 8 * before + FLOOR:
                return f"{method} of {start!r} and {piece!r} again and again: {length} characters took {taken:.3f} s"
            if length == ENOUGH and taken < FAST:
                break
            before = taken
    return None


ROOMS = ["*.py", *(f"{path.name}/**/*.py" for path in sorted(ROOT.iterdir()) if (path / "__init__.py").exists())]


@pytest.mark.parametrize("room", ROOMS)
def test_every_pattern_is_linear(room: str) -> None:
    """Four times the text takes less than eight times the time."""
    assert {str(found): problem for found in find_all(room)[0] if (problem := worst(found))} == {}


def test_every_pattern_is_found() -> None:
    """By name, in a container, in a function, in bytes. Those that the source does not show are named."""
    found, unknown = find_all()
    places = {item.place for item in found}
    assert {"tasks/__init__.py", "media/files.py", "handlers/discord.py", "provider/client.py", "tokens.py"} <= places
    assert unknown == ELSEWHERE
    assert len(found) > 150
    assert {path for room in ROOMS for path in ROOT.glob(room)} == set(ROOT.rglob("*.py"))


@pytest.mark.parametrize("pattern", [r"\S*://\S*", r"(?m)^(\s*\d*)([.+-])", r"\s*See: .*\Z", r"(a|aa)+$", r"(\d+)*x"])
def test_a_pattern_that_is_not_linear_is_seen(pattern: str) -> None:
    """The control: patterns of the kind that once stopped the process for 12 s."""
    assert worst(Found("", re.compile(pattern), frozenset({"match", "search", "sub"})))
