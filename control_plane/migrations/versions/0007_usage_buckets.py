"""Further token buckets, who answered as which model, stored answers, and the roll-up by upstream.

The new columns have defaults: replicas of the version before go on writing while the new ones start.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

TOKENS = ("cache_write_tokens", "audio_prompt_tokens", "audio_completion_tokens")
SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", *TOKENS, "cost_micro")
FILL = """
INSERT INTO usage_upstream_days (organisation_id, day, upstream, model, calls, {names})
SELECT organisation_id, (to_timestamp(started_at_ms / 1000.0) AT TIME ZONE 'UTC')::date, upstream, model,
       count(*), {sums}
FROM usage_events WHERE kind <> 'agent' GROUP BY 1, 2, 3, 4
"""


def upgrade() -> None:
    """Apply."""
    for table, names in (("usage_events", TOKENS), ("usage_days", (*TOKENS, "cached_calls"))):
        for name in names:
            op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("usage_events", sa.Column("upstream_model", sa.Text(), nullable=True))
    op.add_column("usage_events", sa.Column("from_cache", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "usage_upstream_days",
        sa.Column("organisation_id", sa.Text(), primary_key=True),
        sa.Column("day", sa.Date(), primary_key=True),
        *(sa.Column(name, sa.Text(), primary_key=True) for name in ("upstream", "model")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("calls", *SUMS)),
    )
    op.create_index(None, "usage_upstream_days", ["day"])
    sums = ", ".join(f"sum({name})" for name in SUMS)
    op.execute(FILL.format(names=", ".join(SUMS), sums=sums))


def downgrade() -> None:
    """Take back."""
    op.drop_table("usage_upstream_days")
    for name in ("from_cache", "upstream_model", *TOKENS):
        op.drop_column("usage_events", name)
    for name in ("cached_calls", *TOKENS):
        op.drop_column("usage_days", name)
