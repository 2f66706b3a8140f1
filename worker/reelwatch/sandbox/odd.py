"""Odd jobs of the stand-in upstream: no poll of theirs ever brings a word about them. Pure.

What each gets speaks of its account, of the upstream or of nothing, and is its own affair all the
same: the account's other jobs are answered as ever.
"""

from collections.abc import Mapping

from reelwatch.sandbox.answers import Answer, html_page, plain_error, relay_error

HANG_SECONDS = 30.0

_NO_QUOTA = "用户额度不足, 剩余额度: ＄-0.003902"  # noqa: RUF001 (upstream's own words)

ODD: Mapping[str, tuple[str, Answer]] = {
    "refused": ("is always refused with 401", relay_error(401, "无效的令牌", "", "odd")),
    "unpaid": (
        "is always refused with 402 (no quota)",
        relay_error(402, _NO_QUOTA, "insufficient_user_quota", "odd"),
    ),
    "denied": (
        "is always refused with 403",
        relay_error(403, "access denied", "access_denied", "odd"),
    ),
    "nomodel": (
        "is always refused with 403 (not for its model)",
        relay_error(403, "This token has no access to model veo3.1-ultra", "access_denied", "odd"),
    ),
    "noroute": ("always gets a gateway's 404", html_page(404, "404 Not Found", "nginx")),
    "limited": ("is always told to slow down with 429", Answer(429, {}, b"")),
    "outage": ("always gets a 503", plain_error(503, "service_unavailable", "system is busy")),
    "gibberish": (
        "always gets cut-off JSON",
        Answer(200, {"Content-Type": "application/json"}, b'{"id":"veo3.1-fast:17703500'),
    ),
    "silence": ("never gets an answer", Answer(0, {}, b"", delay=HANG_SECONDS)),
}
