"""What CONTRIBUTING sends people to is there: files, and the names in them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
RECIPES = re.findall(r"^\*\*(To .+?)\*\*(.+?)(?=^\*\*To |^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.*/-]+/[\w.*/-]*|[\w-]+\.(?:md|py|toml)")
NAME = re.compile(r"_?[A-Za-z][A-Za-z_]{3,}")


def paths(text: str) -> list[str]:
    return [quoted for quoted in QUOTED.findall(text) if PATH.fullmatch(quoted)]


@pytest.mark.parametrize("path", sorted(set(paths(TEXT))))
def test_every_path_in_it_exists(path: str) -> None:
    found = [*ROOT.glob(path), *(ROOT / "worker/reelwatch").glob(path)]
    assert found


@pytest.mark.parametrize(("title", "text"), RECIPES, ids=[title for title, _ in RECIPES])
def test_a_recipes_names_stand_in_the_files_it_names(title: str, text: str) -> None:
    files = [file for path in paths(text) for file in ROOT.glob(path) if file.is_file()]
    files += [file for path in paths(text) for file in ROOT.glob(f"{path}*.py")]
    written = "\n".join(file.read_text("utf-8") for file in files) + (ROOT / "Makefile").read_text()
    names = [quoted for quoted in QUOTED.findall(text) if NAME.fullmatch(quoted)]
    assert files, title
    assert [name for name in names if not re.search(rf"\b{name}\b", written)] == []
