"""`from receiver import …`: a small, sorted set of names, there when asked for and not before."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import receiver


def test_names_are_sorted_and_all_lead_somewhere() -> None:
    """What is promised exists, and is what its own module calls so."""
    assert receiver.__all__ == sorted(receiver.__all__)
    for name in receiver.__all__:
        assert getattr(receiver, name).__name__ == name
        assert name in dir(receiver)


def test_type_checkers_see_the_same_names() -> None:
    """What stands under TYPE_CHECKING is what `__getattr__` finds, each from the same module."""
    tree = ast.parse(Path(receiver.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(seen) == receiver.__all__
    assert {name: module for name, module in seen.items() if module != "receiver.errors"} == receiver._ELSEWHERE


def test_public_errors_are_all_there() -> None:
    """Whoever may be raised at Python users can be caught by a name of the package."""
    assert {"Ambiguous", "InputError", "NotStarted", "Refused", "TaskFailed", "TaskLost"} <= set(receiver.__all__)


def test_other_names_are_not_there() -> None:
    """As in any module."""
    with pytest.raises(AttributeError, match="module 'receiver' has no attribute 'nothing'"):
        receiver.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_else() -> None:
    """A command that needs three modules does not pay for all."""
    script = "import receiver, sys; print(*[name for name in sys.modules if name.startswith('receiver.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (["--help"], {"msgspec", "structlog", "logging", "rich", "asyncio"}),
        (
            ["tasks", "list"],
            {"httpx", "starlette", "uvicorn", "receiver.app.container", "rich.console", "structlog"},
        ),
        (
            ["submit", "a paper boat"],
            {
                "httpx",
                "starlette",
                "uvicorn",
                "urllib.request",
                "structlog",
                "receiver.web.app",
                "receiver.handlers.s3",
            },
        ),
    ],
    ids=["help", "list", "submit"],
)
def test_a_command_imports_what_it_uses(words: list[str], unused: set[str], tmp_path: Path) -> None:
    """What belongs to the server, the engine or another handler costs other commands nothing."""
    environ = {"HOME": str(tmp_path), "COMETAPI_KEY": "k", "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-X", "importtime", "-m", "receiver", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "receiver.cli" in imported
    assert not imported & unused
