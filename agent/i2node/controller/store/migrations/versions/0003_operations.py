"""Who changed what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("began", sa.Float, nullable=False, index=True),
        sa.Column("ended", sa.Float, nullable=False, index=True),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("description", sa.String, nullable=False),
        sa.Column("result", sa.Integer, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
    )
