"""The courses that a job of the stand-in upstream can take, chosen by the job's own id.

An id reads `MODEL:SCRIPT.DURATION-RANDOM`, as in `veo3.1-fast:ok.12s-x7` or `grok:policy-a`; any
other id is an `ok` job that takes 5 to 40 s. Pure, so a run can be repeated to the byte.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from reelwatch.sandbox.answers import (
    UNSAFE,
    Answer,
    Body,
    Job,
    Look,
    completed,
    completed_with,
    draw,
    failed,
    html_page,
    interrupted,
    json_answer,
    nested,
    plain_error,
    record,
    relay_error,
    relayed,
    running,
    token,
    video_url,
)
from reelwatch.sandbox.odd import HANG_SECONDS, ODD

Outcome = Literal["completed", "failed", "expired"]
Behaviour = Callable[[Look], Answer]

DEFAULT_SECONDS = 20.0

_ID = re.compile(
    r"(?P<model>[^:]+):(?P<script>[a-z]+)"
    r"(?:\.(?P<amount>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m))?(?:-.*)?",
    re.DOTALL,
)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}

_UNREADY_LOOKS = 2
_LATE_LOOKS = 3
_HALF = 0.5

_LEFTOVERS = {
    "retry_count": 3,
    "max_retries": 3,
    "error_message": "[403] Request failed with status code 403 | Message: reCAPTCHA evaluation "
    "failed | Code: 403 | Status: PERMISSION_DENIED | Reason: PUBLIC_ERROR_SOMETHING_WENT_WRONG",
    "video_generation_error": UNSAFE,
    "needs_safe_enhancement": True,
}
_POLICY_REASONS = (
    "PUBLIC_ERROR_UNSAFE_GENERATION",
    "PUBLIC_ERROR_MINOR_UPLOAD",
    "PUBLIC_ERROR_SEXUAL",
    "PUBLIC_ERROR_PROMINENT_PEOPLE_FILTER_FAILED",
)
_NO_ROUTE = html_page(404, "404 Not Found", "nginx")
_NGINX = html_page(502, "502 Bad Gateway", "nginx")
_CLOUDFLARE = html_page(200, "Just a moment...", "cloudflare")
_NOT_KNOWN = plain_error(400, "task_not_exist", "task_not_exist")
_SATURATED_TEXT = "当前分组上游负载已饱和，请稍后再试"  # noqa: RUF001 (upstream's own words)
_SATURATED = plain_error(429, "upstream_load_saturated", _SATURATED_TEXT)
_BUSY = {2: Answer(429, {}, b""), 3: Answer(429, {"Retry-After": "1"}, b""), 4: _SATURATED}
_OUTAGES = (
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
    "html": _CLOUDFLARE,
    "garbage": Answer(200, {"Content-Type": "application/json"}, b'{"id":"veo3.1-fast:17703500'),
    "hang": Answer(0, {}, b"", delay=HANG_SECONDS),
}


@dataclass(frozen=True, slots=True)
class Script:
    """A course that a job can take, and the end that Reelwatch should reach with it."""

    name: str
    summary: str
    outcome: Outcome
    error_code: str | None


SCRIPTS: dict[str, Script] = {}
_BEHAVIOURS: dict[str, Behaviour] = {}


def read_id(video_id: str) -> Job:
    """The job that an id stands for; every id stands for one."""
    match = _ID.fullmatch(video_id)
    if match is None or match["script"] not in SCRIPTS:
        return _unscripted(video_id)
    seconds = DEFAULT_SECONDS
    if match["amount"]:
        seconds = float(match["amount"]) * _UNIT_SECONDS[match["unit"]]
    return Job(video_id, match["model"], match["script"], seconds)


def _unscripted(video_id: str) -> Job:
    model, colon, _ = video_id.partition(":")
    seconds = 5.0 + draw(35_001, video_id, "seconds") / 1000
    return Job(video_id, model if colon else "", "ok", seconds)


def scripted_id(model: str, script: str, seconds: float, suffix: str) -> str:
    """An id whose job follows that script for that long (to the millisecond).

    Raises ValueError when the parts make no such id.
    """
    amount = f"{seconds:.3f}".rstrip("0").rstrip(".")
    video_id = f"{model}:{script}.{amount}s-{suffix}"
    match = _ID.fullmatch(video_id)
    if match is None or match["script"] not in SCRIPTS:
        raise ValueError(f"{video_id!r} is no scripted id; the scripts are {', '.join(SCRIPTS)}")
    return video_id


def expected(video_id: str) -> Script:
    """The script that an id follows, and so the end that Reelwatch should reach with it."""
    return SCRIPTS[read_id(video_id).script]


def answer(
    video_id: str,
    look_number: int,
    age_seconds: float,
    started_at_unix: float,
    past_end: int = 1,
) -> Answer:
    """What a job answers to its n-th look (from 1) at this age.

    Once the job is over, `past_end` numbers the looks since then, from 1.
    """
    job = read_id(video_id)
    return answer_look(Look(job, look_number, age_seconds, started_at_unix, past_end))


def answer_look(look: Look) -> Answer:
    """What the job answers to this look."""
    return _BEHAVIOURS[look.job.script](look)


def fault_answer(mode: str, retry_after: int | None = None) -> Answer | None:
    """What every look gets in that mode; None in mode `none`.

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


def _script(
    name: str, outcome: Outcome, error_code: str | None, summary: str
) -> Callable[[Behaviour], Behaviour]:
    def register(behaviour: Behaviour) -> Behaviour:
        SCRIPTS[name] = Script(name, summary, outcome, error_code)
        _BEHAVIOURS[name] = behaviour
        return behaviour

    return register


def _course(look: Look, end: Callable[[Look], Body] = completed) -> Answer:
    """The usual course, with that end."""
    return json_answer(200, end(look) if look.over else running(look))


@_script("ok", "completed", None, "goes through its stages and completes")
def _ok(look: Look) -> Answer:
    return _course(look)


@_script("leftovers", "completed", None, "completes with the error texts of earlier retries")
def _leftovers(look: Look) -> Answer:
    def end(look: Look) -> Body:
        body = completed(look)
        detail = record(look, "completed") | body.get("detail", {}) | _LEFTOVERS
        return body | {"detail": detail}

    return _course(look, end)


@_script("policy", "failed", "content_policy", "is rejected for its content")
def _policy(look: Look) -> Answer:
    return _course(look, _veo_rejection if look.job.family == "veo" else _rejection)


def _rejection(look: Look) -> Body:
    return failed(look, error=UNSAFE)


def _veo_rejection(look: Look) -> Body:
    reason = _POLICY_REASONS[draw(len(_POLICY_REASONS), look.job.video_id, "reason")]
    text = f"[400] Request failed with status code 400 | Code: 400 | Reason: {reason}"
    return failed(look, video_url=None, detail=record(look, "failed", error_message=text))


@_script("failed", "failed", "upstream_failed", "fails with a text")
def _failed_text(look: Look) -> Answer:
    return _course(look, lambda look: failed(look, error="Task failed"))


@_script("failedobject", "failed", "upstream_failed", "fails with an object holding a request id")
def _failed_object(look: Look) -> Answer:
    message = f"video generation failed (request id: {token(look.job.video_id, 'failure')})"
    error = {"message": message, "type": "new_api_error", "code": "generation_failed"}
    return _course(look, lambda look: failed(look, error=error))


@_script("silent", "failed", "upstream_failed", "fails without a reason")
def _silent(look: Look) -> Answer:
    return _course(look, failed)


@_script("upsampling", "failed", "upsampling_failed", "fails in upsampling, with an original left")
def _upsampling(look: Look) -> Answer:
    word = "video_upsampling_failed"

    def end(look: Look) -> Body:
        url = video_url(look.job, "original")
        status = "MEDIA_GENERATION_STATUS_FAILED"
        detail = record(look, word, video_url=url, upsample_status=status)
        return failed(look, word, video_url=None, detail=detail)

    return _course(look, end)


@_script("gone", "failed", "upstream_expired", "expires upstream")
def _gone(look: Look) -> Answer:
    return _course(look, lambda look: failed(look, "expired"))


@_script("lateurl", "completed", None, "is completed for three looks before its URL appears")
def _late_url(look: Look) -> Answer:
    return _course(look, completed_with if look.past_end <= _LATE_LOOKS else completed)


@_script("detailurl", "completed", None, "completes with its URL only in detail.video_url")
def _detail_url(look: Look) -> Answer:
    return _course(look, lambda look: completed_with(look, video_url=video_url(look.job)))


@_script("noresult", "completed", "no_result", "completes but never has a URL")
def _no_result(look: Look) -> Answer:
    return _course(look, completed_with)


@_script("wrapped", "completed", None, "answers inside {code, data} and completes")
def _wrapped(look: Look) -> Answer:
    data = completed(look) if look.over else running(look)
    return json_answer(200, {"code": "success", "message": "", "data": data})


@_script("retried", "completed", None, "seems to fail midway, is retried upstream and completes")
def _retried(look: Look) -> Answer:
    if not look.midway:
        return _course(look)
    text = _LEFTOVERS["error_message"]
    body = interrupted(look, "video_generation_failed", retry_count=1, error_message=text)
    return json_answer(200, body)


@_script("odd", "completed", None, "has a status word midway that nobody knows, and completes")
def _odd(look: Look) -> Answer:
    return json_answer(200, interrupted(look, "video_daydreaming")) if look.midway else _ok(look)


@_script("flaky", "completed", None, "answers a third of the looks with a 5xx, and completes")
def _flaky(look: Look) -> Answer:
    throw = draw(3 * len(_OUTAGES), look.seed)
    return _OUTAGES[throw] if throw < len(_OUTAGES) else _ok(look)


@_script("html", "completed", None, "answers every other look with a web page, and completes")
def _html(look: Look) -> Answer:
    if look.number % 2:
        return _ok(look)
    return _CLOUDFLARE if look.number % 4 else _NGINX


@_script("garbage", "completed", None, "answers every other look with cut-off JSON, and completes")
def _garbage(look: Look) -> Answer:
    whole = _ok(look)
    return whole if look.number % 2 else whole._replace(body=whole.body[: len(whole.body) // 2])


@_script("busy", "completed", None, "answers looks 2 to 4 with 429, and completes")
def _busy(look: Look) -> Answer:
    return _BUSY.get(look.number) or _ok(look)


@_script("unready", "completed", None, "is unknown for its first two looks, and completes")
def _unready(look: Look) -> Answer:
    return _NOT_KNOWN if look.number <= _UNREADY_LOOKS else _ok(look)


@_script("unknown", "failed", "not_found", "is never known")
def _unknown(_look: Look) -> Answer:
    return _NOT_KNOWN


@_script("forgotten", "completed", None, "is not found from half its duration on, and completes")
def _forgotten(look: Look) -> Answer:
    if look.share < _HALF or look.over:
        return _ok(look)
    return relay_error(404, "task not found", "task_not_found", look.seed)


@_script("moved", "completed", None, "is a gateway's 404 from half its duration on, and completes")
def _moved(look: Look) -> Answer:
    return _ok(look) if look.share < _HALF or look.over else _NO_ROUTE


@_script("lookup", "completed", None, "says midway that a look-up failed, and completes")
def _lookup(look: Look) -> Answer:
    return json_answer(200, {"status": "failed", "message": "oops"}) if look.midway else _ok(look)


@_script("renamed", "completed", None, "answers in another relay's words, the channel's inside")
def _renamed(look: Look) -> Answer:
    return json_answer(200, relayed(look))


@_script("nested", "completed", None, "has status, progress and URL only within its detail")
def _nested(look: Look) -> Answer:
    return json_answer(200, nested(look))


@_script("quoted", "completed", None, "has its URL in a list, with backticks around it")
def _quoted(look: Look) -> Answer:
    body = completed(look) | {"video_url": [f" `{video_url(look.job)}` "]}
    return json_answer(200, body) if look.over else _ok(look)


@_script("hidden", "completed", None, "has its URL at a place that nobody knows")
def _hidden(look: Look) -> Answer:
    def end(look: Look) -> Body:
        return failed(look, "completed", media={"files": [{"download": video_url(look.job)}]})

    return _course(look, end)


@_script("foreign", "completed", None, "answers by the channel's own id")
def _foreign(look: Look) -> Answer:
    body = completed(look) if look.over else running(look)
    return json_answer(200, body | {"id": f"internal_{token(look.job.video_id)}"})


@_script(
    "errorword", "failed", "upstream_failed", "fails with the status `error`, its id and a text"
)
def _error_word(look: Look) -> Answer:
    return _course(look, lambda look: failed(look, "error", error="Asset upload returned 403"))


@_script("guardrails", "failed", "content_policy", "is rejected by a draft's reason")
def _guardrails(look: Look) -> Answer:
    text = "This content may violate our guardrails concerning similarity to third-party content."
    draft = {"kind": "sora_content_violation", "reason_str": text, "url": None}
    return _course(
        look, lambda look: failed(look, detail={"status": "failed", "draft_info": draft})
    )


@_script("forever", "expired", "deadline", "never ends")
def _forever(look: Look) -> Answer:
    halfway = replace(look, age=min(look.age, look.job.seconds * _HALF))
    return json_answer(200, running(halfway))


@_script("hang", "completed", None, "leaves its first look without an answer, and completes")
def _hang(look: Look) -> Answer:
    return FAULTS["hang"] if look.number == 1 else _ok(look)


def _always(given: Answer) -> Behaviour:
    return lambda _look: given


for _name, (_what, _given) in ODD.items():
    _script(_name, "expired", "deadline", _what)(_always(_given))
