"""What a state carries where there is no journal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import ID, SetClock

from receiver.errors import InputError, TokenError
from receiver.tokens import MAX_TAG, MAX_TAGGED_STATE, Tag, Tokens, read_tag, write_tag

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEY = "k" * 32


def signed(text: str) -> str:
    return Tokens([KEY], max_age=3600, clock=SetClock()).state_token(text)


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (Tag(submission_id=ID), ID),
        (Tag(submission_id=ID, destinations=("album", "team")), f"{ID}.album.team"),
        (Tag(submission_id=ID, labels={"order": "17"}), f"{ID}..order.17"),
        (Tag(submission_id=ID, destinations=("album",), labels={"a": "", "b": "."}), f"{ID}.album..a..b.~2e"),
        (Tag(submission_id=ID, labels={"für": "猫 1"}), f"{ID}..f~c3~bcr.~e7~8c~ab~201"),
    ],
)
def test_a_tag_is_plain_text(tag: Tag, text: str) -> None:
    """Names and labels can be read in it, and it gives them back."""
    assert write_tag(tag) == text
    assert read_tag(text) == tag


@given(st.lists(NAMES, max_size=3), st.dictionaries(TEXT.filter(bool), TEXT, max_size=3))
def test_every_tag_comes_back_or_is_refused(names: list[str], labels: dict[str, str]) -> None:
    """What fits comes back as it was, through a state that no sender touches and the upstream takes."""
    tag = Tag(submission_id=ID, destinations=tuple(names) or None, labels=labels)
    try:
        text = write_tag(tag)
    except InputError:
        assert len("".join(names) + "".join(labels) + "".join(labels.values())) > 10
        return
    assert read_tag(text) == tag
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", signed(text))
    assert len(signed(text)) <= MAX_TAGGED_STATE


def test_the_longest_tag_fits_into_a_state() -> None:
    """200 characters and the signature are what the upstream takes; one more is refused before anything is sent."""
    longest = Tag(submission_id=ID, labels={"a": "x" * (MAX_TAG - 26 - 4)})
    assert len(write_tag(longest)) == MAX_TAG
    assert len(signed(write_tag(longest))) <= MAX_TAGGED_STATE
    with pytest.raises(InputError, match="have 174 characters there; these take 175"):
        write_tag(Tag(submission_id=ID, labels={"a": "x" * (MAX_TAG - 26 - 3)}))


@pytest.mark.parametrize("text", ["", "x", ID + "..a", ID + "..a.b.c", ID + ".~ff", "I" * 26])
def test_what_is_no_tag_is_refused(text: str) -> None:
    """Another version may have signed it."""
    with pytest.raises(ValueError, match=r"\w"):
        read_tag(text)


def test_a_signed_tag_gives_the_id_alone_and_all_of_it() -> None:
    """Whoever asks whose a state is gets the submission's id, whatever else it carries; old ones carry nothing else."""
    tokens = Tokens([KEY], max_age=3600, clock=SetClock())
    tag = Tag(submission_id=ID, destinations=("album",), labels={"order": "17"})
    token = tokens.state_token(write_tag(tag))
    assert tokens.read_state_token(token) == ID
    assert tokens.read_tag(token) == tag
    assert tokens.read_tag(tokens.state_token(ID)) == Tag(submission_id=ID)
    with pytest.raises(TokenError, match="signature"):
        tokens.read_tag(token.replace("album", "other"))
    with pytest.raises(TokenError, match="malformed"):
        tokens.read_tag(tokens.state_token("something else"))
