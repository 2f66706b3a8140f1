"""HTTP to strangers: a sender that reaches nothing private (`callback_url` says what that is)."""

from collections.abc import Mapping
from functools import lru_cache, partial

from reelwatch.errors import Refused
from reelwatch.net.http import AddressBlocked, Client, Request, Resolver, Response
from reelwatch.rules.callback_url import Address, Allowlist, check_url, is_public

MAX_ANSWER_BYTES = 64 * 1024


class Sender:
    """What is sent to strangers, and their client. For any number of threads."""

    def __init__(
        self,
        allow: Allowlist,
        timeout_seconds: float = 15,
        *,
        verify: bool | str = True,
        resolver: Resolver | None = None,
    ) -> None:
        """`timeout_seconds` is for a whole exchange, name look-up included."""
        self._checked = lru_cache(256)(partial(check_url, allow=allow))  # for 0.1 ms each
        self._timeout_seconds = timeout_seconds
        self.client = Client(
            address_filter=partial(_may_reach, allow), verify=verify, resolver=resolver
        )

    def request(
        self, url: str, body: bytes, headers: Mapping[str, str], method: str = "POST"
    ) -> Request:
        """A request of which the answer's first 64 KiB are kept as sent. Redirects are answers.

        Raises AddressBlocked for a URL that is no longer accepted.
        """
        try:
            target = self._checked(url)
        except Refused as error:
            raise AddressBlocked(str(error)) from None
        return Request(
            target,
            method,
            headers,
            body,
            deadline_seconds=self._timeout_seconds,
            max_bytes=MAX_ANSWER_BYTES,
            decode=False,
            truncate=True,
        )

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Post once. Raises TransferError, also (AddressBlocked) for a URL not accepted."""
        return self.client.ask(self.request(url, body, headers))

    def close(self) -> None:
        """Drop the idle connections."""
        self.client.close()


def _may_reach(allow: Allowlist, host: str, port: int, address: Address) -> bool:
    return is_public(address) or allow.reaches(host, port, address)
