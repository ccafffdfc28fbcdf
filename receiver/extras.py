"""Optional extras: what something needs beyond the core, asked for at the start and told in a sentence."""

from __future__ import annotations

from importlib.util import find_spec

from receiver.errors import SettingsError


def require(module: str, *, extra: str, why: str) -> None:
    """Without effect where `module` is installed.

    Args:
        module: what the extra brings, for instance `PIL`.
        extra: its name in `imagine-receiver[…]`.
        why: what it is for, as the beginning of a sentence, for instance `The option tiles`.

    Raises:
        SettingsError: it is not; the text says how to get it.
    """
    if find_spec(module) is None:
        raise SettingsError(f'{why} needs more than the core: pip install "imagine-receiver[{extra}]"')
