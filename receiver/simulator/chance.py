"""Chance that repeats: dice that fall the same way for the same name."""

from random import Random


def dice(*name: object) -> Random:
    """A generator of its own for each name, so that no use of chance disturbs another."""
    return Random("/".join(map(str, name)))  # noqa: S311 - nothing here is secret, and runs must repeat
