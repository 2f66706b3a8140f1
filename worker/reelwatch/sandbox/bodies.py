"""Answers of the stand-in upstream that are the same for every job. Pure."""

from reelwatch.sandbox.answers import (
    UNSAFE,
    Answer,
    html_page,
    plain_error,
    relay_error,
)
from reelwatch.sandbox.odd import HANG_SECONDS

LEFTOVERS = {
    "retry_count": 3,
    "max_retries": 3,
    "error_message": "[403] Request failed with status code 403 | Message: reCAPTCHA evaluation "
    "failed | Code: 403 | Status: PERMISSION_DENIED | Reason: PUBLIC_ERROR_SOMETHING_WENT_WRONG",
    "video_generation_error": UNSAFE,
    "needs_safe_enhancement": True,
}


POLICY_REASONS = (
    "PUBLIC_ERROR_UNSAFE_GENERATION",
    "PUBLIC_ERROR_MINOR_UPLOAD",
    "PUBLIC_ERROR_SEXUAL",
    "PUBLIC_ERROR_PROMINENT_PEOPLE_FILTER_FAILED",
)


NO_ROUTE = html_page(404, "404 Not Found", "nginx")


NGINX = html_page(502, "502 Bad Gateway", "nginx")


CLOUDFLARE = html_page(200, "Just a moment...", "cloudflare")


NOT_KNOWN = plain_error(400, "task_not_exist", "task_not_exist")


_SATURATED_TEXT = "当前分组上游负载已饱和，请稍后再试"  # noqa: RUF001 (upstream's own words)


SATURATED = plain_error(429, "upstream_load_saturated", _SATURATED_TEXT)


BUSY = {2: Answer(429, {}, b""), 3: Answer(429, {"Retry-After": "1"}, b""), 4: SATURATED}


OUTAGES = (
    plain_error(500, "internal_error", "internal error"),
    Answer(502, {}, b""),
    plain_error(503, "service_unavailable", "system is busy, try again later"),
    Answer(504, {}, b""),
)


_NO_QUOTA_TEXT = "用户额度不足, 剩余额度: ＄-0.003902"  # noqa: RUF001 (upstream's own words)


UNAUTHORIZED = relay_error(401, "无效的令牌", "", "401")


TOO_MANY = Answer(429, {}, b"")


FAULTS = {
    "401": UNAUTHORIZED,
    "403": relay_error(403, _NO_QUOTA_TEXT, "insufficient_user_quota", "403"),
    "429": TOO_MANY,
    "500": relay_error(500, "internal error", "internal_error", "500"),
    "html": CLOUDFLARE,
    "garbage": Answer(200, {"Content-Type": "application/json"}, b'{"id":"veo3.1-fast:17703500'),
    "hang": Answer(0, {}, b"", delay=HANG_SECONDS),
}


def fault_answer(mode: str, retry_after: int | None = None) -> Answer | None:
    """What every poll gets in that mode; None in mode `none`.

    `retry_after` is in seconds. Raises ValueError for a mode that does not exist.
    """
    if mode == "none":
        return None
    if mode not in FAULTS:
        raise ValueError(f"no fault {mode!r}; there are none, {', '.join(FAULTS)}")
    fault = FAULTS[mode]
    if retry_after is None:
        return fault
    return fault._replace(headers={**fault.headers, "Retry-After": str(retry_after)})
