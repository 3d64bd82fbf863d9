"""Users, their logins and keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uuid", sa.String(36), nullable=False, unique=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("password", sa.String(255), nullable=False),
        sa.Column("created", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("failed_at", sa.Integer, nullable=False),
    )
    op.create_table(
        "logins",
        sa.Column("id", sa.Integer, primary_key=True),
        _user(),
        sa.Column("access", sa.String(64), nullable=False, unique=True),
        sa.Column("sso", sa.String(64), nullable=False, unique=True),
        sa.Column("refresh", sa.String(64), nullable=False, unique=True),
        sa.Column("created", sa.Integer, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("superseded", sa.Integer, nullable=False),
    )
    op.create_table(
        "access_keys",
        sa.Column("id", sa.Integer, primary_key=True),
        _user(),
        sa.Column("access", sa.String(64), nullable=False, unique=True),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Integer, nullable=False),
    )


def _user() -> sa.Column[int]:
    key = sa.ForeignKey("users.id", ondelete="CASCADE")
    return sa.Column("user_id", sa.Integer, key, nullable=False, index=True)
