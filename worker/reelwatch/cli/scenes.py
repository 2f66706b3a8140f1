"""The demo's videos, and what is to come of them: each end held against its script. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reelwatch.rules.states import EventType, State
from reelwatch.sandbox.listener import Received
from reelwatch.sandbox.upstream import expected, scripted_id


@dataclass(frozen=True, slots=True)
class Scene:
    """One video: what upstream does with it and for how long, and what its producer wants."""

    model: str
    script: str
    seconds: float
    every_change: bool = False  # its producer is told of every change, not only of the end
    refused_once: bool = False  # the receiver answers 500 to the first attempt at its final event
    deadline: str = "10m"  # longer than any demo: no slow machine makes a video expire


SCENES = (
    Scene("veo3.1-fast", "ok", 6, every_change=True),
    Scene("sora-2", "ok", 16, every_change=True),
    Scene("veo3.1", "leftovers", 8, every_change=True, refused_once=True),
    Scene("veo3.1", "odd", 15, every_change=True),
    Scene("veo3.1", "retried", 15, every_change=True),
    Scene("veo3.1", "ok", 12),
    Scene("sora-2", "ok", 9, refused_once=True),
    Scene("grok", "ok", 5),
    Scene("sora-2", "leftovers", 13),
    Scene("grok", "wrapped", 6),
    Scene("veo3.1", "lateurl", 7),
    Scene("sora-2", "unready", 9),
    Scene("sora-2", "busy", 15),
    Scene("grok", "flaky", 10),
    Scene("veo3.1-fast", "flaky", 14),
    Scene("sora-2", "html", 11),
    Scene("grok", "garbage", 8),
    Scene("veo3.1", "policy", 7),
    Scene("grok", "policy", 9),
    Scene("grok", "silent", 8),
    Scene("sora-2", "failedobject", 10),
    Scene("veo3.1", "upsampling", 12),
    Scene("veo3.1", "forgotten", 11),
    Scene("grok", "unknown", 5),
    Scene("veo3.1", "forever", 30, deadline="16s"),
)


RATE = 20  # requests per second of the demo's account

Videos = Mapping[str, Scene]  # by their ids


Row = Mapping[str, Any]


Event = tuple[int, str]  # sequence and type


ENDS = (State.COMPLETED, State.FAILED, State.EXPIRED)


_LOST: Row = {"id": None, "state": "lost", "error_code": None, "polls": 0}  # no job by that id


@dataclass(frozen=True, slots=True)
class Reading:
    """What the database says at one moment."""

    jobs: Sequence[Row]
    transitions: Sequence[Row]
    pending: int  # events whose receiver has not accepted them yet
    rate: float  # requests per second that the account makes do with, after the 429s

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return not self.pending and all(job["state"] in ENDS for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One video's end, held against its script and against what its receiver got."""

    video_id: str
    ended: str
    scripted: str
    polls: int
    changes: int
    owed: frozenset[Event]
    arrived: frozenset[Event]

    @property
    def problems(self) -> Sequence[str]:
        """What went otherwise than it should, in words."""
        wrong = [f"{self.ended}, scripted: {self.scripted}"] * (self.ended != self.scripted)
        lost = [f"{kind} ({n}) never came verified" for n, kind in sorted(self.owed - self.arrived)]
        odd = [f"{kind} ({n}) came unowed" for n, kind in sorted(self.arrived - self.owed)]
        return [*wrong, *lost, *odd]


def by_id(scenes: Iterable[Scene]) -> Videos:
    """The scenes by the ids of their videos, which a letter tells apart."""
    return {
        scripted_id(scene.model, scene.script, scene.seconds, chr(ord("a") + place)): scene
        for place, scene in enumerate(scenes)
    }


def judge(reading: Reading, videos: Videos, received: Iterable[Received]) -> list[Verdict]:
    """How each video ended and what its receiver got of what it was owed."""
    arrived: defaultdict[str, set[Event]] = defaultdict(set)
    for event in received:
        if event.verified:
            data = event.body["data"]
            arrived[data["video_id"]].add((data["sequence"], event.type))
    jobs = {job["video_id"]: job for job in reading.jobs}
    return [
        _verdict(video_id, jobs.get(video_id, _LOST), scene, reading, arrived[video_id])
        for video_id, scene in videos.items()
    ]


def _verdict(
    video_id: str, job: Row, scene: Scene, reading: Reading, arrived: Iterable[Event]
) -> Verdict:
    script = expected(video_id)
    changes = [change for change in reading.transitions if change["job_id"] == job["id"]]
    return Verdict(
        video_id=video_id,
        ended=_end_in_words(job["state"], job["error_code"]),
        scripted=_end_in_words(script.outcome, script.error_code),
        polls=job["polls"],
        changes=len(changes),
        owed=_owed(scene, changes),
        arrived=frozenset(arrived),
    )


def _end_in_words(state: str, error_code: str | None) -> str:
    return f"{state} {error_code}" if error_code else state


def _owed(scene: Scene, changes: Iterable[Row]) -> frozenset[Event]:
    """The events that follow from these changes: of the end always, of the others if asked for."""
    events = [(change["sequence"], _event_type(change)) for change in changes]
    wanted = [e for e in events if scene.every_change or e[1] != EventType.STATUS_CHANGED]
    return frozenset(wanted)


def _event_type(change: Row) -> str:
    ends = change["to_state"] in ENDS and change["to_state"] != change["from_state"]
    return f"video.{change['to_state']}" if ends else EventType.STATUS_CHANGED.value
