"""The settings of this process, as tests make them."""

import base64

import pytest

from reelwatch.config import settings

SECRET = "whsec_" + base64.b64encode(b"a new secret of the producer!").decode()


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Settings as a process that starts now would read them."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings.current.cache_clear()


def configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have this process work on that database; returns its URL."""
    set_variables(
        monkeypatch, DATABASE_URL=database_url, WEBHOOK_SECRET=SECRET,
        QUICKROUTER_API_KEY="sk-test-key", BROKER_URL=settings.MEMORY_BROKER,
    )  # fmt: skip
    return database_url
