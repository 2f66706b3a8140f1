"""Odd jobs of the stand-in upstream: no poll of theirs ever brings a word about them. Pure.

What each gets speaks of its account, of the upstream or of nothing, and is its own affair all the
same: the account's other jobs are answered as ever.
"""

from collections.abc import Mapping

from reelwatch.sandbox.answers import Answer, html_page, plain_error, relay_error

HANG_SECONDS = 30.0

_NO_QUOTA = "用户额度不足, 剩余额度: ＄-0.003902"  # noqa: RUF001 (upstream's own words)

ODD: Mapping[str, tuple[str, Answer]] = {
    "refused": ("is refused with 401", relay_error(401, "无效的令牌", "", "odd")),
    "unpaid": (
        "is refused with 402, for want of quota",
        relay_error(402, _NO_QUOTA, "insufficient_user_quota", "odd"),
    ),
    "denied": ("is refused with 403", relay_error(403, "access denied", "access_denied", "odd")),
    "nomodel": (
        "is refused with 403, for its model",
        relay_error(403, "This token has no access to model veo3.1-ultra", "access_denied", "odd"),
    ),
    "noroute": ("is a gateway's 404", html_page(404, "404 Not Found", "nginx")),
    "limited": ("is told to slow down with 429", Answer(429, {}, b"")),
    "outage": ("gets a 503", plain_error(503, "service_unavailable", "system is busy")),
    "gibberish": (
        "gets cut-off JSON",
        Answer(200, {"Content-Type": "application/json"}, b'{"id":"veo3.1-fast:17703500'),
    ),
    "silence": ("gets no answer", Answer(0, {}, b"", delay=HANG_SECONDS)),
}
