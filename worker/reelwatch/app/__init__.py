"""The Celery app: its tasks, processes, queues, and everything in one process."""
