"""The courses that a job of the stand-in upstream can take, chosen by the job's own id.

An id reads `MODEL:SCRIPT.DURATION-RANDOM`, as in `veo3.1-fast:ok.12s-x7` or `grok:policy-a`; any
other id is an `ok` job that takes 5 to 40 s. Pure, so a run can be repeated to the byte.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from reelwatch.sandbox.answers import (
    UNSAFE,
    Answer,
    Body,
    Job,
    Poll,
    completed,
    completed_with,
    draw,
    failed,
    interrupted,
    json_answer,
    nested,
    record,
    relay_error,
    relayed,
    running,
    token,
    video_url,
)
from reelwatch.sandbox.bodies import (
    BUSY,
    CLOUDFLARE,
    FAULTS,
    LEFTOVERS,
    NGINX,
    NO_ROUTE,
    NOT_KNOWN,
    OUTAGES,
    POLICY_REASONS,
)
from reelwatch.sandbox.odd import ODD
from reelwatch.sandbox.registry import BEHAVIOURS, SCRIPTS, Behaviour, Script, script

DEFAULT_SECONDS = 20.0

_ID = re.compile(
    r"(?P<model>[^:]+):(?P<script>[a-z]+)"
    r"(?:\.(?P<amount>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m))?(?:-.*)?",
    re.DOTALL,
)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}

_UNREADY_POLLS = 2
_LATE_POLLS = 3
_HALF = 0.5


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
    poll_number: int,
    age_seconds: float,
    started_at_unix: float,
    past_end: int = 1,
) -> Answer:
    """What a job answers to its n-th poll (from 1) at this age.

    Once the job is over, `past_end` numbers the polls since then, from 1.
    """
    job = read_id(video_id)
    return answer_poll(Poll(job, poll_number, age_seconds, started_at_unix, past_end))


def answer_poll(poll: Poll) -> Answer:
    """What the job answers to this poll."""
    return BEHAVIOURS[poll.job.script](poll)


def _course(poll: Poll, end: Callable[[Poll], Body] = completed) -> Answer:
    """The usual course, with that end."""
    return json_answer(200, end(poll) if poll.over else running(poll))


@script("ok", "completed", None, "goes through its stages and completes")
def _ok(poll: Poll) -> Answer:
    return _course(poll)


@script("leftovers", "completed", None, "completes with the error texts of earlier retries")
def _leftovers(poll: Poll) -> Answer:
    def end(poll: Poll) -> Body:
        body = completed(poll)
        detail = record(poll, "completed") | body.get("detail", {}) | LEFTOVERS
        return body | {"detail": detail}

    return _course(poll, end)


@script("policy", "failed", "content_policy", "is rejected for its content")
def _policy(poll: Poll) -> Answer:
    return _course(poll, _veo_rejection if poll.job.family == "veo" else _rejection)


def _rejection(poll: Poll) -> Body:
    return failed(poll, error=UNSAFE)


def _veo_rejection(poll: Poll) -> Body:
    reason = POLICY_REASONS[draw(len(POLICY_REASONS), poll.job.video_id, "reason")]
    text = f"[400] Request failed with status code 400 | Code: 400 | Reason: {reason}"
    return failed(poll, video_url=None, detail=record(poll, "failed", error_message=text))


@script("failed", "failed", "upstream_failed", "fails with a text")
def _failed_text(poll: Poll) -> Answer:
    return _course(poll, lambda poll: failed(poll, error="Task failed"))


@script("failedobject", "failed", "upstream_failed", "fails with an object holding a request id")
def _failed_object(poll: Poll) -> Answer:
    message = f"video generation failed (request id: {token(poll.job.video_id, 'failure')})"
    error = {"message": message, "type": "new_api_error", "code": "generation_failed"}
    return _course(poll, lambda poll: failed(poll, error=error))


@script("silent", "failed", "upstream_failed", "fails without a reason")
def _silent(poll: Poll) -> Answer:
    return _course(poll, failed)


@script("upsampling", "failed", "upsampling_failed", "fails in upsampling, with an original left")
def _upsampling(poll: Poll) -> Answer:
    status = "video_upsampling_failed"

    def end(poll: Poll) -> Body:
        url = video_url(poll.job, "original")
        upsampling = "MEDIA_GENERATION_STATUS_FAILED"
        detail = record(poll, status, video_url=url, upsample_status=upsampling)
        return failed(poll, status, video_url=None, detail=detail)

    return _course(poll, end)


@script("gone", "failed", "upstream_expired", "expires upstream")
def _gone(poll: Poll) -> Answer:
    return _course(poll, lambda poll: failed(poll, "expired"))


@script("lateurl", "completed", None, "is completed for three polls before its URL appears")
def _late_url(poll: Poll) -> Answer:
    return _course(poll, completed_with if poll.past_end <= _LATE_POLLS else completed)


@script("detailurl", "completed", None, "completes with its URL only in detail.video_url")
def _detail_url(poll: Poll) -> Answer:
    return _course(poll, lambda poll: completed_with(poll, video_url=video_url(poll.job)))


@script("noresult", "completed", "no_result", "completes but never has a URL")
def _no_result(poll: Poll) -> Answer:
    return _course(poll, completed_with)


@script("wrapped", "completed", None, "answers inside {code, data} and completes")
def _wrapped(poll: Poll) -> Answer:
    data = completed(poll) if poll.over else running(poll)
    return json_answer(200, {"code": "success", "message": "", "data": data})


@script("retried", "completed", None, "seems to fail midway, is retried upstream and completes")
def _retried(poll: Poll) -> Answer:
    if not poll.midway:
        return _course(poll)
    text = LEFTOVERS["error_message"]
    body = interrupted(poll, "video_generation_failed", retry_count=1, error_message=text)
    return json_answer(200, body)


@script("odd", "completed", None, "has a status midway that nobody knows, and completes")
def _odd(poll: Poll) -> Answer:
    return json_answer(200, interrupted(poll, "video_daydreaming")) if poll.midway else _ok(poll)


@script("flaky", "completed", None, "answers a third of the polls with a 5xx, and completes")
def _flaky(poll: Poll) -> Answer:
    throw = draw(3 * len(OUTAGES), poll.seed)
    return OUTAGES[throw] if throw < len(OUTAGES) else _ok(poll)


@script("html", "completed", None, "answers every other poll with a web page, and completes")
def _html(poll: Poll) -> Answer:
    if poll.number % 2:
        return _ok(poll)
    return CLOUDFLARE if poll.number % 4 else NGINX


@script("garbage", "completed", None, "answers every other poll with cut-off JSON, and completes")
def _garbage(poll: Poll) -> Answer:
    whole = _ok(poll)
    return whole if poll.number % 2 else whole._replace(body=whole.body[: len(whole.body) // 2])


@script("busy", "completed", None, "answers polls 2 to 4 with 429, and completes")
def _busy(poll: Poll) -> Answer:
    return BUSY.get(poll.number) or _ok(poll)


@script("unready", "completed", None, "is unknown for its first two polls, and completes")
def _unready(poll: Poll) -> Answer:
    return NOT_KNOWN if poll.number <= _UNREADY_POLLS else _ok(poll)


@script("unknown", "failed", "not_found", "is never known")
def _unknown(_poll: Poll) -> Answer:
    return NOT_KNOWN


@script("forgotten", "completed", None, "is not found from half its duration on, and completes")
def _forgotten(poll: Poll) -> Answer:
    if poll.share < _HALF or poll.over:
        return _ok(poll)
    return relay_error(404, "task not found", "task_not_found", poll.seed)


@script("moved", "completed", None, "is a gateway's 404 from half its duration on, and completes")
def _moved(poll: Poll) -> Answer:
    return _ok(poll) if poll.share < _HALF or poll.over else NO_ROUTE


@script("lookup", "completed", None, "says midway that a look-up failed, and completes")
def _lookup(poll: Poll) -> Answer:
    return json_answer(200, {"status": "failed", "message": "oops"}) if poll.midway else _ok(poll)


@script("renamed", "completed", None, "answers in another relay's words, the channel's inside")
def _renamed(poll: Poll) -> Answer:
    return json_answer(200, relayed(poll))


@script("nested", "completed", None, "has status, progress and URL only within its detail")
def _nested(poll: Poll) -> Answer:
    return json_answer(200, nested(poll))


@script("quoted", "completed", None, "has its URL in a list, with backticks around it")
def _quoted(poll: Poll) -> Answer:
    body = completed(poll) | {"video_url": [f" `{video_url(poll.job)}` "]}
    return json_answer(200, body) if poll.over else _ok(poll)


@script("hidden", "completed", None, "has its URL at a place that nobody knows")
def _hidden(poll: Poll) -> Answer:
    def end(poll: Poll) -> Body:
        return failed(poll, "completed", media={"files": [{"download": video_url(poll.job)}]})

    return _course(poll, end)


@script("foreign", "completed", None, "answers by the channel's own id")
def _foreign(poll: Poll) -> Answer:
    body = completed(poll) if poll.over else running(poll)
    return json_answer(200, body | {"id": f"internal_{token(poll.job.video_id)}"})


@script(
    "errorword", "failed", "upstream_failed", "fails with the status `error`, its id and a text"
)
def _error_word(poll: Poll) -> Answer:
    return _course(poll, lambda poll: failed(poll, "error", error="Asset upload returned 403"))


@script("guardrails", "failed", "content_policy", "is rejected by a draft's reason")
def _guardrails(poll: Poll) -> Answer:
    text = "This content may violate our guardrails concerning similarity to third-party content."
    draft = {"kind": "sora_content_violation", "reason_str": text, "url": None}
    return _course(
        poll, lambda poll: failed(poll, detail={"status": "failed", "draft_info": draft})
    )


@script("forever", "expired", "deadline", "never ends")
def _forever(poll: Poll) -> Answer:
    halfway = replace(poll, age=min(poll.age, poll.job.seconds * _HALF))
    return json_answer(200, running(halfway))


@script("hang", "completed", None, "leaves its first poll without an answer, and completes")
def _hang(poll: Poll) -> Answer:
    return FAULTS["hang"] if poll.number == 1 else _ok(poll)


def _always(given: Answer) -> Behaviour:
    return lambda _poll: given


for _name, (_what, _given) in ODD.items():
    script(_name, "expired", "deadline", _what)(_always(_given))
