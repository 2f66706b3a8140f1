"""HTTP: one client, upstream's routes, the sender of webhooks."""
