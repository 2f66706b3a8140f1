"""HTTP to strangers: a sender that reaches nothing private (`callback_url` says what that is)."""

from collections.abc import Mapping
from functools import partial

from reelwatch import transport
from reelwatch.callback_url import Address, Allowlist, check_url, is_public
from reelwatch.errors import Refused
from reelwatch.transport import AddressBlocked, Exchange

MAX_ANSWER_BYTES = 64 * 1024


class Sender:
    """Posts to callback URLs. For any number of threads; `close` drops its idle connections."""

    def __init__(
        self,
        allow: Allowlist,
        timeout_seconds: float = 15,
        *,
        pool_size: int = 16,
        verify: bool | str = True,
        resolver: transport.Resolver | None = None,
    ) -> None:
        """`timeout_seconds` is for a whole exchange, name look-up included."""
        self._allow = allow
        self._timeout_seconds = timeout_seconds
        self._session = transport.new_session(
            pool_size=pool_size,
            address_filter=partial(_may_reach, allow),
            verify=verify,
            resolver=resolver,
        )

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Exchange:
        """Post once; the answer's first 64 KiB are kept as sent. Redirects are answers.

        Raises transport.TransferError, also (AddressBlocked) for a URL that is no longer accepted.
        """
        try:
            target = check_url(url, self._allow)
        except Refused as error:
            raise AddressBlocked(str(error)) from None
        return transport.exchange(
            self._session,
            "POST",
            target,
            headers=headers,
            body=body,
            deadline_seconds=self._timeout_seconds,
            max_bytes=MAX_ANSWER_BYTES,
            decode=False,
            on_oversize="truncate",
        )

    def close(self) -> None:
        """Drop the idle connections."""
        self._session.close()


def _may_reach(allow: Allowlist, host: str, port: int, address: Address) -> bool:
    return is_public(address) or allow.reaches(host, port, address)
