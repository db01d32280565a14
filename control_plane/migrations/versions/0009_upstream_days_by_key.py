"""The roll-up by upstream tells whose key a call went under, for a provider bills its owner."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

SUMS = (
    *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"),
    *("cache_write_tokens", "audio_prompt_tokens", "audio_completion_tokens", "cost_micro"),
)
FILL = """
INSERT INTO usage_upstream_days (organisation_id, day, upstream, model, {key}calls, {names})
SELECT organisation_id, (to_timestamp(started_at_ms / 1000.0) AT TIME ZONE 'UTC')::date, upstream,
       coalesce(upstream_model, model), {key}count(*), {sums}
FROM usage_events WHERE kind <> 'agent' AND NOT from_cache GROUP BY organisation_id, 2, upstream, 4{group}
"""


def _make(*keys: str) -> None:
    op.drop_table("usage_upstream_days")
    op.create_table(
        "usage_upstream_days",
        sa.Column("organisation_id", sa.Text(), primary_key=True),
        sa.Column("day", sa.Date(), primary_key=True),
        *(sa.Column(name, sa.Text(), primary_key=True) for name in ("upstream", "model")),
        *(sa.Column(name, sa.Boolean(), primary_key=True) for name in keys),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("calls", *SUMS)),
    )
    op.create_index(None, "usage_upstream_days", ["day"])
    names = {"names": ", ".join(SUMS), "sums": ", ".join(f"sum({name})" for name in SUMS)}
    key, group = "".join(f"{name}, " for name in keys), "".join(f", {name}" for name in keys)
    op.execute(FILL.format(**names, key=key, group=group))


def upgrade() -> None:
    """Apply."""
    _make("own_key")


def downgrade() -> None:
    """Take back."""
    _make()
