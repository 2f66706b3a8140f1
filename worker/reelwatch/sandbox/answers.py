"""How the stand-in upstream words its answers: the shapes of real ones, per family of models.

Pure: everything follows from the job, the number of the poll and the job's age.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Body = dict[str, Any]

UNSAFE = (
    "your request contains unsafe prompt or images, such as porn, violence, minors etc., has been "
    "rejected by google, please change your prompt or images and try again"
)

# Per family: the share of the job's duration at which each of upstream's statuses begins.
_STAGES = {
    "veo": (
        (0.0, "pending"),
        (0.05, "image_downloading"),
        (0.12, "video_generating"),
        (0.65, "video_generation_completed"),
        (0.7, "video_upsampling"),
    ),
    "sora": ((0.0, "queued"), (0.1, "in_progress")),
    "grok": ((0.0, "pending"), (0.1, "processing")),
}
_MIDDLE = (0.4, 0.6)
_URL_DELAY_MILLIS = 104  # upstream writes the status first and its URL a little later
_PROMPT = "A calm sea at dawn, seen from above"


class Answer(NamedTuple):
    """One HTTP answer, given after `delay` seconds; status 0 means none: hang up instead."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """What an id says about its job; `seconds` is how long the job takes."""

    video_id: str
    model: str
    script: str
    seconds: float

    @property
    def family(self) -> str:
        """Whose shape its answers have; a model of no known family answers like grok."""
        return next((name for name in ("veo", "sora") if self.model.startswith(name)), "grok")

    @property
    def answered_id(self) -> str:
        """The id in its answers, which for grok lacks the prefix."""
        return self.video_id.removeprefix("grok:")


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll a job: `number` counts all of them from 1, `past_end` those since its end.

    `age` is in seconds since the job was first asked about, `started_at` that moment in unix
    seconds.
    """

    job: Job
    number: int
    age: float
    started_at: float
    past_end: int

    @property
    def over(self) -> bool:
        """Whether the job has had its time."""
        return self.age >= self.job.seconds

    @property
    def share(self) -> float:
        """How much of its duration has passed: 0 to 1."""
        return 1.0 if self.over else self.age / self.job.seconds

    @property
    def midway(self) -> bool:
        """Whether the job is around its middle, where some scripts put their surprise."""
        begin, end = _MIDDLE
        return begin <= self.share < end

    @property
    def seed(self) -> str:
        """What tells this poll from all others."""
        return f"{self.job.video_id} {self.number}"

    def at(self, share: float) -> float:
        """When that share of the duration had passed, in unix seconds."""
        return self.started_at + share * self.job.seconds


def draw(sides: int, *seeds: str) -> int:
    """A throw of a die, 0 to sides - 1, that falls the same way every time."""
    return int.from_bytes(_digest(seeds)[:8], "big") % sides


def token(*seeds: str) -> str:
    """Thirty hex digits that look random and are not."""
    return _digest(seeds).hex()[:30]


def video_url(job: Job, which: str = "result") -> str:
    """Where one of a job's videos would be, were there any."""
    return f"https://cdn.sandbox.example/{token(job.video_id, which)}.mp4"


def json_answer(status: int, body: object) -> Answer:
    """An answer with a JSON body."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status, headers, text.encode(errors="replace"))


def relay_error(status: int, message: str, code: str, seed: str) -> Answer:
    """An error as the relay words it, with a request id derived from the seed."""
    text = f"{message} (request id: {token(seed)})"
    error = {"message": text, "type": "new_api_error", "param": "", "code": code}
    return json_answer(status, {"error": error})


def plain_error(status: int, code: str, message: str) -> Answer:
    """An error in the relay's other shape, without an `error` key."""
    return json_answer(status, {"code": code, "message": message, "data": None})


def html_page(status: int, title: str, server: str) -> Answer:
    """A page that a proxy puts in the API's place."""
    html = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1>"
        f"</center>\r\n<hr><center>{server}</center>\r\n</body>\r\n</html>\r\n"
    )
    return Answer(status, {"Content-Type": "text/html; charset=utf-8"}, html.encode())


def running(poll: Poll) -> Body:
    """The body of a job on its usual way, in the shape of its family."""
    share, status = _stage(poll)
    return _RUNNING[poll.job.family](poll, share, status)


def interrupted(poll: Poll, status: str, **facts: object) -> Body:
    """The body of a running job with another status than the usual."""
    return _head(poll, status, poll.share) | {
        "video_url": None,
        "detail": record(poll, status, **facts),
    }


def completed(poll: Poll) -> Body:
    """The body of a success, in the shape of its family."""
    return _COMPLETED[poll.job.family](poll)


def completed_with(poll: Poll, **facts: object) -> Body:
    """The body of a success that has no URL but what is among the facts of its record."""
    detail = record(poll, "completed", **facts)
    return _head(poll, "completed", 1.0) | {"video_url": None, "detail": detail}


def failed(poll: Poll, status: str = "failed", **facts: object) -> Body:
    """The body of a failure: nothing but the status and these facts."""
    return _head(poll, status, 1.0) | facts


def relayed(poll: Poll) -> Body:
    """A body in an older relay's words, with what the channel answered inside."""
    inner = completed(poll) if poll.over else running(poll)
    data: Body = {
        "task_id": poll.job.video_id,
        "status": "SUCCESS" if poll.over else "IN_PROGRESS",
        "fail_reason": "",
        "progress": f"{int(poll.share * 100)}%",
        "data": inner,
    }
    if poll.over:
        data["result_url"] = video_url(poll.job)
        inner.pop("video_url", None)
    return {"code": "success", "message": "", "data": data}


def nested(poll: Poll) -> Body:
    """A body that has nothing but its id outside its detail."""
    if not poll.over:
        pending = {"status": "processing", "progress_pct": round(poll.share, 2)}
        return {"id": poll.job.answered_id, "detail": {"pending_info": pending}}
    draft = {"downloadable_url": video_url(poll.job)}
    detail = {"status": "completed", "input": {"images": [video_url(poll.job, "input")]}}
    return {"id": poll.job.answered_id, "detail": detail | {"draft_info": draft}}


def record(poll: Poll, status: str, **facts: object) -> Body:
    """The relay's own record of a job; the image URLs in it are inputs, never the result."""
    job = poll.job
    image = f"https://cdn.sandbox.example/{token(job.video_id, 'input')}.png"
    return {
        "id": job.video_id,
        "req": _request(job, image),
        "images": [{"url": image, "status": "completed", "mediaId": token(image)}],
        "status": status,
        "running": not poll.over,
        "video_url": None,
        "created_at": _millis(poll.started_at),
        "error_sleep": 5000,
        "max_retries": 3,
        "retry_count": 0,
        "error_message": None,
        "enhanced_prompt": _PROMPT,
    } | facts


def _request(job: Job, image: str) -> Body:
    return {
        "model": job.model,
        "images": [image],
        "prompt": "make animate",
        "aspect_ratio": "16:9",
        "enhance_prompt": True,
        "enable_upsample": True,
    }


def _digest(seeds: tuple[str, ...]) -> bytes:
    # A mangled query string can bring lone surrogates, which UTF-8 refuses.
    return hashlib.sha256("\0".join(seeds).encode(errors="replace")).digest()


def _millis(unix_seconds: float) -> int:
    return int(unix_seconds * 1000)


def _stage(poll: Poll) -> tuple[float, str]:
    """The stage that the job is in: the share at which it began, and its status."""
    return [stage for stage in _STAGES[poll.job.family] if stage[0] <= poll.share][-1]


def _head(poll: Poll, status: str, share: float) -> Body:
    """What every answer has; veo counts the time in milliseconds, the others in seconds."""
    changed = poll.at(share)
    stamp = _millis(changed) if poll.job.family == "veo" else int(changed)
    return {"id": poll.job.answered_id, "status": status, "status_update_time": stamp}


def _veo_running(poll: Poll, share: float, status: str) -> Body:
    head = _head(poll, status, share)
    if not share:  # just created: upstream says no more than this
        return head
    detail = record(poll, status, status_update_time=head["status_update_time"])
    return head | {"video_url": None, "enhanced_prompt": _PROMPT, "detail": detail}


def _sora_running(poll: Poll, share: float, status: str) -> Body:
    detail = _sora_detail(poll, status, int(poll.share * 100))
    return _head(poll, status, share) | {"video_url": None, "detail": detail}


def _sora_detail(poll: Poll, status: str, percent: int) -> Body:
    job = poll.job
    return {"id": job.video_id, "model": job.model, "status": status, "progress_pct": percent}


def _grok_running(poll: Poll, share: float, status: str) -> Body:
    head = _head(poll, status, share)
    if share:
        return head | {"progress": int(poll.share * 100)}
    # The first status comes with milliseconds and the later ones with seconds, as upstream does it.
    early = {"status_update_time": _millis(poll.started_at)}
    return head | {"video_url": None, "enhanced_prompt": _PROMPT} | early


def _veo_completed(poll: Poll) -> Body:
    completed_at = _millis(poll.at(1.0))
    detail = record(
        poll,
        "completed",
        video_url=video_url(poll.job, "original"),
        upsample_video_url=video_url(poll.job, "upsampled"),
        completed_at=completed_at,
        upsample_status="MEDIA_GENERATION_STATUS_SUCCESSFUL",
        video_generation_status="MEDIA_GENERATION_STATUS_SUCCESSFUL",
    )
    return _head(poll, "completed", 1.0) | {
        "video_url": detail["upsample_video_url"],
        "enhanced_prompt": _PROMPT,
        "status_update_time": completed_at + _URL_DELAY_MILLIS,
        "detail": detail,
    }


def _sora_completed(poll: Poll) -> Body:
    detail = _sora_detail(poll, "completed", 100) | {"url": video_url(poll.job)}
    return _head(poll, "completed", 1.0) | {"video_url": None, "detail": detail}


def _grok_completed(poll: Poll) -> Body:
    result = {"video_url": video_url(poll.job), "enhanced_prompt": _PROMPT, "error": ""}
    return _head(poll, "completed", 1.0) | result


_RUNNING = {"veo": _veo_running, "sora": _sora_running, "grok": _grok_running}
_COMPLETED = {"veo": _veo_completed, "sora": _sora_completed, "grok": _grok_completed}
