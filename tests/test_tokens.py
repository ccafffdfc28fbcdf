"""The two signed tokens of a submission."""

from __future__ import annotations

import contextlib
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import ID, NOW, SetClock

from receiver.errors import InputError, SettingsError, TokenError
from receiver.tokens import FUTURE_TOLERANCE, MAX_STATE, MAX_TAG, MAX_TAGGED_STATE, Tag, Tokens, read_tag, write_tag

OLD, NEW, OTHER = "old-" * 8, "new-" * 8, "not-" * 8
MAX_AGE = 72 * 3600.0
START = NOW / 1000


def tokens(*keys: str, at: float = START) -> Tokens:
    return Tokens(keys or (OLD,), max_age=MAX_AGE, clock=SetClock(at))


def cause_of(verifier: Tokens, token: str) -> str:
    with pytest.raises(TokenError) as caught:
        verifier.read_url_token(token)
    return caught.value.cause


def test_each_token_gives_its_submission_back() -> None:
    """What was signed comes back, for both roles."""
    minted = tokens()
    assert minted.read_url_token(minted.url_token(ID)) == ID
    assert minted.read_state_token(minted.state_token(ID)) == ID


def test_neither_token_stands_in_for_the_other() -> None:
    """Whoever saw the `state` cannot make a callback URL of it, nor the other way round."""
    minted = tokens()
    assert cause_of(minted, minted.state_token(ID)) == "signature"
    with pytest.raises(TokenError, match="signature"):
        minted.read_state_token(minted.url_token(ID))


def test_tokens_fit_where_they_travel() -> None:
    """A state has at most 128 characters, and both tokens only characters no URL encoder touches."""
    minted = tokens()
    for token in (minted.url_token(ID), minted.state_token(ID)):
        assert len(token) <= MAX_STATE
        assert re.fullmatch(r"[A-Za-z0-9._~-]+", token)


@pytest.mark.parametrize(
    ("signed_with", "read_with", "good"),
    [
        pytest.param((OLD,), (OLD, NEW), True, id="an old token after a new key was added"),
        pytest.param((OLD, NEW), (NEW,), True, id="the last key signs"),
        pytest.param((OLD, NEW), (OLD,), False, id="and no other"),
        pytest.param((OLD,), (NEW,), False, id="a key that was taken away"),
        pytest.param((OTHER,), (OLD, NEW), False, id="somebody else's key"),
    ],
)
def test_keys_rotate(signed_with: tuple[str, ...], read_with: tuple[str, ...], good: bool) -> None:
    """Keys are newest last: the last signs, all verify."""
    token = tokens(*signed_with).url_token(ID)
    if good:
        assert tokens(*read_with).read_url_token(token) == ID
    else:
        assert cause_of(tokens(*read_with), token) == "signature"


@pytest.mark.parametrize(
    ("later", "cause"),
    [
        (0, None),
        (MAX_AGE - 1, None),
        (MAX_AGE + 2, "expired"),
        (-5, None),
        (-FUTURE_TOLERANCE + 1, None),
        (-FUTURE_TOLERANCE - 2, "future"),
        (-MAX_AGE, "future"),
    ],
)
def test_age_is_checked_by_our_clock(later: float, cause: str | None) -> None:
    """A token lives 72 h, and may come up to 60 s from the future, because clocks differ."""
    token = tokens().url_token(ID)
    verifier = tokens(at=START + later)
    if cause is None:
        assert verifier.read_url_token(token) == ID
    else:
        assert cause_of(verifier, token) == cause


@pytest.mark.parametrize(
    "token",
    ["", "a" * 256, "a b", "a\n", "ä", "\x00", "%2e", "a/b", "\ud800", "a=b", "١"],
    ids=["empty", "long", "space", "newline", "umlaut", "nul", "percent", "slash", "surrogate", "equals", "digit"],
)
def test_what_cannot_be_a_token_is_not_looked_at(token: str) -> None:
    """Anything outside the alphabet or the length is malformed, whatever the signature would be."""
    assert cause_of(tokens(), token) == "malformed"


@pytest.mark.parametrize(
    "token", [".", "..", "a", "a.b", f"{ID}.aaaaaa", f"{ID}..", f"{ID}.aaaaaa.{'a' * 43}", "~" * 9]
)
def test_garbage_of_our_alphabet_is_refused(token: str) -> None:
    """What looks like a token and is not signed is refused for its signature."""
    assert cause_of(tokens(), token) == "signature"


@given(at=st.integers(0, 76), to=st.sampled_from(string.ascii_letters + string.digits + "._~-"))
def test_no_changed_character_changes_the_submission(at: int, to: str) -> None:
    """A token with one character changed is refused, or (its last bits are free) still names the same submission."""
    minted = tokens()
    token = minted.url_token(ID)
    changed = token[:at] + to + token[at + 1 :]
    with contextlib.suppress(TokenError):
        assert minted.read_url_token(changed) == ID


def test_token_strings_are_malleable() -> None:
    """Two strings are one token, so nothing may be keyed on them."""
    minted = tokens()
    token = minted.url_token(ID)
    twins = [token[:-1] + last for last in string.ascii_letters + string.digits + "-_" if last != token[-1]]
    read = []
    for twin in twins:
        try:
            read.append(minted.read_url_token(twin))
        except TokenError:
            continue
    assert read
    assert set(read) == {ID}


def test_an_old_token_does_not_live_longer_by_a_new_time() -> None:
    """The time is signed too: one from another token does not fit."""
    old, new = tokens().url_token(ID), tokens(at=START + MAX_AGE).url_token(ID)
    mixed = ".".join((*old.split(".")[:1], new.split(".")[1], old.split(".")[2]))
    assert cause_of(tokens(at=START + MAX_AGE + 60), mixed) == "signature"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([], "No signing key"),
        ([""], "shorter than 32 bytes"),
        (["k" * 31], "shorter than 32 bytes"),
        ([NEW, "feeble"], "shorter than 32 bytes"),
    ],
)
def test_weak_keys_stop_the_start(keys: list[str], words: str) -> None:
    """No key, or a short one anywhere in the list, is refused with the setting's name and without the key."""
    with pytest.raises(SettingsError, match=words) as caught:
        Tokens(keys, max_age=MAX_AGE, clock=SetClock())
    assert "RECEIVER_KEYS" in str(caught.value)
    assert not any(key and key in str(caught.value) for key in keys)


def test_length_of_a_key_is_counted_in_bytes() -> None:
    """Sixteen letters of two bytes each are 32 bytes."""
    minted = tokens("ä" * 16)
    assert minted.read_url_token(minted.url_token(ID)) == ID


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
