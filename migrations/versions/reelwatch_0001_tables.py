"""The first tables: accounts, jobs, transitions, poll_errors, deliveries, attempts,
destinations, duration_curves, heartbeats.

Revision reelwatch_0001.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from reelwatch.config.naming import HERE

revision = "reelwatch_0001"
down_revision = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        HERE.table("accounts"),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("requests_per_second", sa.Float(), nullable=False),
        sa.Column("next_slot_at", TIME, nullable=True),
        sa.Column("slowed_at", TIME, nullable=True),
        sa.Column("paused_until", TIME, nullable=True),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("pauses_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("look_price", sa.Float(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "look_price >= 0", name=op.f(HERE.constraint("ck_accounts_price_not_negative"))
        ),
        sa.CheckConstraint(
            "(paused_until IS NULL) = (pause_reason IS NULL)",
            name=op.f(HERE.constraint("ck_accounts_pause_has_reason")),
        ),
        sa.CheckConstraint(
            "requests_per_second > 0", name=op.f(HERE.constraint("ck_accounts_rate_positive"))
        ),
        sa.PrimaryKeyConstraint("name", name=op.f(HERE.constraint("pk_accounts"))),
        schema=HERE.schema,
    )
    op.create_table(
        HERE.table("duration_curves"),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("learned_at", TIME, nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("curve", JSON, nullable=False),
        sa.CheckConstraint(
            "jobs >= 0", name=op.f(HERE.constraint("ck_duration_curves_jobs_not_negative"))
        ),
        sa.ForeignKeyConstraint(
            ["account"],
            [HERE.reference("accounts.name")],
            name=op.f(HERE.constraint("fk_duration_curves_account_accounts")),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "account", "model", name=op.f(HERE.constraint("pk_duration_curves"))
        ),
        schema=HERE.schema,
    )
    op.create_table(
        HERE.table("heartbeats"),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f(HERE.constraint("pk_heartbeats"))),
        schema=HERE.schema,
    )
    op.create_table(
        HERE.table("destinations"),
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("openings", sa.Integer(), nullable=False),
        sa.Column("allowance", sa.Integer(), nullable=False),
        sa.Column("open_until", TIME, nullable=True),
        sa.CheckConstraint(
            "failures >= 0 AND openings >= 0 AND allowance > 0",
            name=op.f(HERE.constraint("ck_destinations_counts_not_negative")),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f(HERE.constraint("pk_destinations"))),
        schema=HERE.schema,
    )
    op.create_table(
        HERE.table("jobs"),
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
            name=op.f(HERE.constraint("ck_jobs_error_has_state")),
        ),
        sa.CheckConstraint(
            "(next_poll_at IS NULL) = "
            "(state IN ('completed', 'failed', 'cancelled') OR abandoned_at IS NOT NULL)",
            name=op.f(HERE.constraint("ck_jobs_open_has_due")),
        ),
        sa.CheckConstraint(
            "(state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f(HERE.constraint("ck_jobs_final_has_end")),
        ),
        sa.CheckConstraint(
            "abandoned_at IS NULL OR state = 'expired'",
            name=op.f(HERE.constraint("ck_jobs_only_expired_abandoned")),
        ),
        sa.CheckConstraint(
            "state <> 'completed' OR video_url IS NOT NULL",
            name=op.f(HERE.constraint("ck_jobs_completed_has_url")),
        ),
        sa.CheckConstraint(
            "state <> 'expired' OR expired_at IS NOT NULL",
            name=op.f(HERE.constraint("ck_jobs_expired_since")),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'completed', 'failed', 'expired', 'cancelled')",
            name=op.f(HERE.constraint("ck_jobs_state_known")),
        ),
        sa.CheckConstraint(
            "lease_token IS NULL OR next_poll_at IS NOT NULL",
            name=op.f(HERE.constraint("ck_jobs_lease_has_due")),
        ),
        sa.CheckConstraint(
            "sequence >= 0 AND polls >= 0",
            name=op.f(HERE.constraint("ck_jobs_counts_not_negative")),
        ),
        sa.ForeignKeyConstraint(
            ["account"],
            [HERE.reference("accounts.name")],
            name=op.f(HERE.constraint("fk_jobs_account_accounts")),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_jobs"))),
        sa.UniqueConstraint(
            "account", "video_id", name=op.f(HERE.constraint("uq_jobs_account_video_id"))
        ),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_jobs_due"),
        HERE.table("jobs"),
        ["account", "next_poll_at"],
        postgresql_where=sa.text("next_poll_at IS NOT NULL"),
        sqlite_where=sa.text("next_poll_at IS NOT NULL"),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_jobs_finished_at"),
        HERE.table("jobs"),
        ["finished_at"],
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_jobs_kind_finished_at"),
        HERE.table("jobs"),
        ["account", "model", "finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_jobs_tracked_at"),
        HERE.table("jobs"),
        ["tracked_at"],
        schema=HERE.schema,
    )

    op.create_table(
        HERE.table("poll_errors"),
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job_id", BIG_ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("request_id", sa.String(length=255), nullable=True),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("count", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "count > 0", name=op.f(HERE.constraint("ck_poll_errors_count_positive"))
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            [HERE.reference("jobs.id")],
            name=op.f(HERE.constraint("fk_poll_errors_job_id_jobs")),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_poll_errors"))),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_poll_errors_job_id"),
        HERE.table("poll_errors"),
        ["job_id"],
        schema=HERE.schema,
    )

    op.create_table(
        HERE.table("transitions"),
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
            name=op.f(HERE.constraint("ck_transitions_states_known")),
        ),
        sa.CheckConstraint(
            "sequence > 0", name=op.f(HERE.constraint("ck_transitions_sequence_positive"))
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            [HERE.reference("jobs.id")],
            name=op.f(HERE.constraint("fk_transitions_job_id_jobs")),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_transitions"))),
        sa.UniqueConstraint(
            "job_id", "sequence", name=op.f(HERE.constraint("uq_transitions_job_id_sequence"))
        ),
        schema=HERE.schema,
    )
    op.create_table(
        HERE.table("deliveries"),
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
            name=op.f(HERE.constraint("ck_deliveries_delivered_has_time")),
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (next_attempt_at IS NOT NULL)",
            name=op.f(HERE.constraint("ck_deliveries_pending_has_due")),
        ),
        sa.CheckConstraint(
            "channel IN ('webhook', 'celery')",
            name=op.f(HERE.constraint("ck_deliveries_channel_known")),
        ),
        sa.CheckConstraint(
            "lease_token IS NULL OR state = 'pending'",
            name=op.f(HERE.constraint("ck_deliveries_lease_is_pending")),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'dead')",
            name=op.f(HERE.constraint("ck_deliveries_state_known")),
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            [HERE.reference("jobs.id")],
            name=op.f(HERE.constraint("fk_deliveries_job_id_jobs")),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["transition_id"],
            [HERE.reference("transitions.id")],
            name=op.f(HERE.constraint("fk_deliveries_transition_id_transitions")),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_deliveries"))),
        sa.UniqueConstraint(
            "transition_id",
            "channel",
            name=op.f(HERE.constraint("uq_deliveries_transition_id_channel")),
        ),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_deliveries_due"),
        HERE.table("deliveries"),
        ["next_attempt_at"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_deliveries_job_id"),
        HERE.table("deliveries"),
        ["job_id"],
        schema=HERE.schema,
    )

    op.create_table(
        HERE.table("attempts"),
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("delivery_id", sa.String(length=40), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("response_excerpt", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            [HERE.reference("deliveries.id")],
            name=op.f(HERE.constraint("fk_attempts_delivery_id_deliveries")),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_attempts"))),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_attempts_delivery_id"),
        HERE.table("attempts"),
        ["delivery_id"],
        schema=HERE.schema,
    )


def downgrade() -> None:

    op.drop_table(HERE.table("attempts"), schema=HERE.schema)

    op.drop_table(HERE.table("deliveries"), schema=HERE.schema)
    op.drop_table(HERE.table("transitions"), schema=HERE.schema)

    op.drop_table(HERE.table("poll_errors"), schema=HERE.schema)

    op.drop_table(HERE.table("jobs"), schema=HERE.schema)
    op.drop_table(HERE.table("heartbeats"), schema=HERE.schema)
    op.drop_table(HERE.table("destinations"), schema=HERE.schema)
    op.drop_table(HERE.table("duration_curves"), schema=HERE.schema)
    op.drop_table(HERE.table("accounts"), schema=HERE.schema)
