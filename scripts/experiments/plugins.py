"""Handlers of the experiments' own, installed as a stranger's package would be."""

from __future__ import annotations

from pathlib import Path


def plug_in(folder: Path, name: str, code: str) -> None:
    """Install `code`, which defines the class `Plugin`, as the handler `name` in a folder its process looks into."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"receiver_{name}.py").write_text(code)
    package = folder / f"receiver_{name}-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: receiver-{name}\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[receiver.handlers]\n{name} = receiver_{name}:Plugin\n")
