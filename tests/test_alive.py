"""`reelwatch alive`: which process goes on with its work, and which only seems to."""

import os
import subprocess
import sys

import pytest

from reelwatch.app.life import Life, answer
from reelwatch.cli import pulse
from reelwatch.rules.pulse import WELL
from tests.processes import plain_environment

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone can tell")


def test_an_answer_names_what_is_silent_for_too_long() -> None:
    assert answer({}, 5.0) == WELL
    assert answer({"a": 6.0, "b": 5.0}, 5.0) == WELL
    assert answer({"b": 3.0, "a": 9.0}, 5.0) == "b is silent, 2 s longer than it may be"


def test_what_was_laid_down_is_not_waited_for() -> None:
    life = Life()
    life.sign("broker", -1.0)
    assert life.said() != WELL
    life.lay_down("broker")
    life.lay_down("broker")
    assert life.said() == WELL


def mine(life: Life, kind: str) -> str:
    """The name of a process that only this test can be: others may run beside it."""
    name = f"{kind}-{os.getpid()}"
    life.begin(name)
    return name


def test_a_process_answers_for_itself() -> None:
    life = Life()
    kind = mine(life, "test")
    assert pulse.complaints(kind) == []
    life.sign("ticks", -2.0)
    assert pulse.complaints(kind) == [f"{kind}: ticks is silent, 2 s longer than it may be"]


def test_none_at_all_is_wrong_too() -> None:
    assert pulse.complaints("nobody") == ["no nobody of Reelwatch runs here"]


def alive(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from reelwatch.cli.start import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, "alive", *arguments],
        capture_output=True, text=True, check=False, env=plain_environment(),
    )  # fmt: skip


def test_a_wrong_kind_is_explained() -> None:
    done = alive("workers")
    assert done.returncode == 2
    assert "worker" in done.stderr


def test_asking_loads_nothing_of_the_package() -> None:
    code = (
        "import sys; from reelwatch.cli import pulse, start; pulse.complaints();"
        "print({'click', 'sqlalchemy', 'celery', 'structlog', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
