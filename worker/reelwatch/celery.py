"""Where `celery -A reelwatch` finds the app."""

from reelwatch.config import lean

lean.load_structlog()

from reelwatch.app.celery import app  # noqa: E402 - it loads structlog

__all__ = ["app"]
