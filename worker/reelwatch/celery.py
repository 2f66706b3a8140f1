"""Where `celery -A reelwatch` finds the app."""

from reelwatch.app.celery import app

__all__ = ["app"]
