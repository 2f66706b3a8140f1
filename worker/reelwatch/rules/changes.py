"""A decision about one row of `jobs`, with the answer behind it, from which all is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reelwatch.rules.answers import Answer, Report
from reelwatch.rules.states import FINAL, Decision


@dataclass(frozen=True, slots=True)
class Change:
    """One decision about one row of `jobs`, and the answer behind it (None: an operator's act)."""

    row: Mapping[str, Any]  # all columns where it has `moved`
    decision: Decision
    answer: Answer | None = None
    deadline_at: datetime | None = None  # a new one, where the job was reopened

    @property
    def moved(self) -> bool:
        """Does more change than when to poll again?"""
        return self.decision.transition or self.decision.abandoned

    @property
    def is_quiet(self) -> bool:
        """Does nothing change but when to poll again, as after most polls?"""
        row, decision, report = self.row, self.decision, self.report
        return (
            report is not None
            and not self.moved
            and not (decision.error or row["last_error_id"])
            and not (row["errors_in_row"] or decision.errors_in_row)
            and not (row["not_found_count"] or decision.not_found_count)
            and not (row["resultless_count"] or decision.resultless_count)
            and report.progress is None
            and decision.due is not None
            and decision.watched_since == row["watched_since"]
            and decision.foreign_id == row["upstream_id"]
            and (row["model"] or not report.model)
            and report.created_at in (None, row["upstream_created_at"])
        )

    @property
    def was_final(self) -> bool:
        """Had the job ended before?"""
        return self.row["state"] in FINAL and self.decision.final

    @property
    def report(self) -> Report | None:
        """The answer, if it was a good one."""
        return self.answer if isinstance(self.answer, Report) else None

    @property
    def polls(self) -> int:
        """Polls of the job, this one included."""
        return int(self.row["polls"]) + (self.answer is not None)

    @property
    def sequence(self) -> int:
        """The job's sequence after this change."""
        return int(self.row["sequence"]) + self.decision.transition
