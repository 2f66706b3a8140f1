"""The first tables: accounts, jobs, transitions, poll_errors, deliveries, attempts,
destinations, duration_curves, heartbeats.

Revision 0001.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("requests_per_second", sa.Float(), nullable=False),
        sa.Column("next_slot_at", TIME, nullable=True),
        sa.Column("slowed_at", TIME, nullable=True),
        sa.Column("paused_until", TIME, nullable=True),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("pauses_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("look_price", sa.Float(), server_default="0", nullable=False),
        sa.CheckConstraint("look_price >= 0", name=op.f("ck_accounts_price_not_negative")),
        sa.CheckConstraint(
            "(paused_until IS NULL) = (pause_reason IS NULL)",
            name=op.f("ck_accounts_pause_has_reason"),
        ),
        sa.CheckConstraint("requests_per_second > 0", name=op.f("ck_accounts_rate_positive")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_accounts")),
    )
    op.create_table(
        "duration_curves",
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("learned_at", TIME, nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("curve", JSON, nullable=False),
        sa.CheckConstraint("jobs >= 0", name=op.f("ck_duration_curves_jobs_not_negative")),
        sa.ForeignKeyConstraint(
            ["account"],
            ["accounts.name"],
            name=op.f("fk_duration_curves_account_accounts"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("account", "model", name=op.f("pk_duration_curves")),
    )
    op.create_table(
        "heartbeats",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_heartbeats")),
    )
    op.create_table(
        "destinations",
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("openings", sa.Integer(), nullable=False),
        sa.Column("allowance", sa.Integer(), nullable=False),
        sa.Column("open_until", TIME, nullable=True),
        sa.CheckConstraint(
            "failures >= 0 AND openings >= 0 AND allowance > 0",
            name=op.f("ck_destinations_counts_not_negative"),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destinations")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("video_id", sa.String(length=200), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("upstream_status", sa.String(length=100), nullable=True),
        sa.Column("video_url", sa.Text(), nullable=True),
        sa.Column("error_code", sa.String(length=32), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_request_id", sa.String(length=255), nullable=True),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("sequence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("polls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress", sa.Float(), nullable=True),
        sa.Column("progress_at", TIME, nullable=True),
        sa.Column("tracked_at", TIME, nullable=False),
        sa.Column("upstream_created_at", TIME, nullable=True),
        sa.Column("upstream_finished_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("next_poll_at", TIME, nullable=True),
        sa.Column("last_polled_at", TIME, nullable=True),
        sa.Column("deadline_at", TIME, nullable=False),
        sa.Column("expired_at", TIME, nullable=True),
        sa.Column("abandoned_at", TIME, nullable=True),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("callback_task", sa.String(length=255), nullable=True),
        sa.Column("callback_queue", sa.String(length=255), nullable=True),
        sa.Column("events", JSON, nullable=False),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("errors_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.String(length=16), nullable=True),
        sa.Column("last_error_id", BIG_ID, nullable=True),
        sa.Column("not_found_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_found_since", TIME, nullable=True),
        sa.Column("resultless_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("resultless_since", TIME, nullable=True),
        sa.CheckConstraint(
            "(error_code IS NOT NULL) = (state IN ('failed', 'expired'))",
            name=op.f("ck_jobs_error_has_state"),
        ),
        sa.CheckConstraint(
            "(next_poll_at IS NULL) = "
            "(state IN ('completed', 'failed', 'cancelled') OR abandoned_at IS NOT NULL)",
            name=op.f("ck_jobs_open_has_due"),
        ),
        sa.CheckConstraint(
            "(state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_final_has_end"),
        ),
        sa.CheckConstraint(
            "abandoned_at IS NULL OR state = 'expired'", name=op.f("ck_jobs_only_expired_abandoned")
        ),
        sa.CheckConstraint(
            "state <> 'completed' OR video_url IS NOT NULL", name=op.f("ck_jobs_completed_has_url")
        ),
        sa.CheckConstraint(
            "state <> 'expired' OR expired_at IS NOT NULL", name=op.f("ck_jobs_expired_since")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'completed', 'failed', 'expired', 'cancelled')",
            name=op.f("ck_jobs_state_known"),
        ),
        sa.CheckConstraint(
            "lease_token IS NULL OR next_poll_at IS NOT NULL", name=op.f("ck_jobs_lease_has_due")
        ),
        sa.CheckConstraint(
            "sequence >= 0 AND polls >= 0", name=op.f("ck_jobs_counts_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.name"], name=op.f("fk_jobs_account_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("account", "video_id", name=op.f("uq_jobs_account_video_id")),
    )
    op.create_index(
        "ix_jobs_due",
        "jobs",
        ["account", "next_poll_at"],
        postgresql_where=sa.text("next_poll_at IS NOT NULL"),
        sqlite_where=sa.text("next_poll_at IS NOT NULL"),
    )
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    op.create_index(
        "ix_jobs_kind_finished_at",
        "jobs",
        ["account", "model", "finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
        sqlite_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index("ix_jobs_tracked_at", "jobs", ["tracked_at"])

    op.create_table(
        "poll_errors",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job_id", BIG_ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("request_id", sa.String(length=255), nullable=True),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("count", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint("count > 0", name=op.f("ck_poll_errors_count_positive")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_poll_errors_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_poll_errors")),
    )
    op.create_index("ix_poll_errors_job_id", "poll_errors", ["job_id"])

    op.create_table(
        "transitions",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job_id", BIG_ID, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=False),
        sa.Column("to_state", sa.String(length=16), nullable=False),
        sa.Column("from_status", sa.String(length=100), nullable=True),
        sa.Column("to_status", sa.String(length=100), nullable=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("upstream_at", TIME, nullable=True),
        sa.Column("answer", JSON, nullable=True),
        sa.CheckConstraint(
            "from_state IN "
            "('pending', 'running', 'completed', 'failed', 'expired', 'cancelled') AND to_state IN "
            "('pending', 'running', 'completed', 'failed', 'expired', 'cancelled')",
            name=op.f("ck_transitions_states_known"),
        ),
        sa.CheckConstraint("sequence > 0", name=op.f("ck_transitions_sequence_positive")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_transitions_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transitions")),
        sa.UniqueConstraint("job_id", "sequence", name=op.f("uq_transitions_job_id_sequence")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("job_id", BIG_ID, nullable=False),
        sa.Column("transition_id", BIG_ID, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("event_type", sa.String(length=32), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("destination", sa.String(length=300), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=True),
        sa.Column("delivered_at", TIME, nullable=True),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.CheckConstraint(
            "(state = 'delivered') = (delivered_at IS NOT NULL)",
            name=op.f("ck_deliveries_delivered_has_time"),
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (next_attempt_at IS NOT NULL)",
            name=op.f("ck_deliveries_pending_has_due"),
        ),
        sa.CheckConstraint(
            "channel IN ('webhook', 'celery')", name=op.f("ck_deliveries_channel_known")
        ),
        sa.CheckConstraint(
            "lease_token IS NULL OR state = 'pending'", name=op.f("ck_deliveries_lease_is_pending")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'dead')", name=op.f("ck_deliveries_state_known")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["transition_id"],
            ["transitions.id"],
            name=op.f("fk_deliveries_transition_id_transitions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint(
            "transition_id", "channel", name=op.f("uq_deliveries_transition_id_channel")
        ),
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["next_attempt_at"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"])

    op.create_table(
        "attempts",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("delivery_id", sa.String(length=40), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("response_excerpt", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["deliveries.id"],
            name=op.f("fk_attempts_delivery_id_deliveries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_delivery_id", "attempts", ["delivery_id"])


def downgrade() -> None:

    op.drop_table("attempts")

    op.drop_table("deliveries")
    op.drop_table("transitions")

    op.drop_table("poll_errors")

    op.drop_table("jobs")
    op.drop_table("heartbeats")
    op.drop_table("destinations")
    op.drop_table("duration_curves")
    op.drop_table("accounts")
