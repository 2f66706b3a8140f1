"""Reelwatch measured, beside what a team would use instead; `__main__` runs all of it."""
