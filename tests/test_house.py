"""What holds for every file, and for every test."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A test file is read from the test that fails, not from top to bottom.
MOST_LINES = {"worker": 350, "migrations": 350, "benchmarks": 500, "tests": 1_000}

# Those that are still longer, none of which may grow. Who shortens one takes it from this list.
STILL_LONGER = {
    "migrations/versions/reelwatch_0001_tables.py": 377,  # what has been released stays as it is
    "tests/test_adversary.py": 1180,
    "tests/test_answers.py": 1443,
    "tests/test_lifecycle.py": 1270,
    "tests/test_polling.py": 1780,
    "tests/test_transport.py": 1040,
}


def lines_of_files(folder: str) -> dict[str, int]:
    files = (ROOT / folder).rglob("*.py")
    return {str(file.relative_to(ROOT)): len(file.read_bytes().splitlines()) for file in files}


@pytest.mark.parametrize("folder", MOST_LINES)
def test_no_file_is_too_long(folder: str) -> None:
    found, most = lines_of_files(folder), MOST_LINES[folder]
    assert found
    too_long = {
        path: lines for path, lines in found.items() if lines > STILL_LONGER.get(path, most)
    }
    assert too_long == {}


def test_only_files_that_are_too_long_are_excused() -> None:
    found = {path: lines for folder in MOST_LINES for path, lines in lines_of_files(folder).items()}
    excused = {
        path for path in STILL_LONGER if found.get(path, 0) <= MOST_LINES[path.split("/")[0]]
    }
    assert excused == set()


def names_of_tests(path: Path) -> Iterator[str]:
    """As words, with those of the class that a name goes on from."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            words = re.sub(r"(?<!^)(?=[A-Z])", " ", node.name.removeprefix("Test")).lower()
            inner = node.body
        else:
            words, inner = "", [node]
        for each in inner:
            if isinstance(each, ast.FunctionDef) and each.name.startswith("test_"):
                yield f"{words} {each.name.removeprefix('test_').replace('_', ' ')}".strip()


@pytest.mark.parametrize("folder", ["tests", "tests/acceptance"])
def test_the_name_of_a_test_is_a_sentence(folder: str) -> None:
    """Of some words, and no continuation of the test before it."""
    names = [name for file in (ROOT / folder).glob("test_*.py") for name in names_of_tests(file)]
    assert names
    continuation = re.compile(r"(and|nor|but|neither|so) ")
    assert [name for name in names if len(name.split()) < 3 or continuation.match(name)] == []
