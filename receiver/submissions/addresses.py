"""The addresses of a submission for the provider: its `state` and its callback URL."""

from __future__ import annotations

from receiver.errors import InputError
from receiver.events import Submission
from receiver.tokens import MAX_CALLBACK_URL, MAX_STATE, Tokens


class Addresses:
    """The `state` and the callback URL of a submission, each with a token.

    Args:
        tokens: signs them.
        public_url: our address for the provider. None: no callback URL is sent, and results are polled.
    """

    def __init__(self, tokens: Tokens, public_url: str | None) -> None:
        self._tokens = tokens
        self._public_url = public_url.rstrip("/") if public_url else None

    @property
    def hooked(self) -> bool:
        """True if callbacks can come at all."""
        return self._public_url is not None

    def of(self, row: Submission) -> dict[str, str]:
        """Return `state`, and `notifyHook` if the provider can reach us.

        The URL holds unreserved characters only, because the Java sender expands and encodes it again (PROTOCOL.md §7).

        Raises:
            InputError: one of them is longer than the provider allows.
        """
        state = self._tokens.state_token(row.id)
        if len(state) > MAX_STATE:
            raise InputError(f"The state token has more than {MAX_STATE} characters.")
        if not row.hooked or self._public_url is None:
            return {"state": state}
        hook = f"{self._public_url}/callbacks/{self._tokens.url_token(row.id)}"
        if len(hook) > MAX_CALLBACK_URL:
            raise InputError(
                f"The callback URL has {len(hook)} characters, more than {MAX_CALLBACK_URL}. "
                "Shorten RECEIVER_PUBLIC_URL.",
                page="proxy",
            )
        return {"state": state, "notifyHook": hook}
