"""When a job is polled next: how long jobs take, and what a poll is worth."""
