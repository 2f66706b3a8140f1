"""Stand-ins: a scripted upstream and a receiver of webhooks."""
