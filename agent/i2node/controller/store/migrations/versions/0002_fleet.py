"""Nodes, rules, and what is heard of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "nodes",
        *_item(),
        sa.Column("config_addr", sa.String(255), nullable=False),
        sa.Column("config_port", sa.Integer, nullable=False),
        sa.Column("data_addr", sa.String(255), nullable=False),
        sa.Column("peer", sa.String(64), nullable=False, index=True),
        sa.Column("certificate", sa.String, nullable=False),
        sa.Column("orders", sa.Integer, nullable=False),
        sa.Column("os_version", sa.String(255), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("seen", sa.Integer, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
    )
    op.create_table(
        "rules",
        *_item(),
        sa.Column("wk_id", sa.Integer, sa.ForeignKey("nodes.id"), nullable=False, index=True),
        sa.Column("bk_id", sa.Integer, sa.ForeignKey("nodes.id"), nullable=False, index=True),
        sa.Column("want", sa.String(8), nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16)),
        sa.Column("secret", sa.LargeBinary),
        sa.Column("fields", sa.JSON, nullable=False),
    )
    op.create_table(
        "standings",
        _of_rule(),
        sa.Column("heard", sa.Float, nullable=False),
        sa.Column("told", sa.JSON, nullable=False),
    )
    op.create_table(
        "log_lines",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Integer, nullable=False, index=True),
        sa.Column("rule", sa.String(36), nullable=False, index=True),
        sa.Column("node", sa.String(36), nullable=False, index=True),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("operation", sa.String(64), nullable=False),
        sa.Column("detail", sa.String, nullable=False),
        sa.Column("result", sa.Integer, nullable=False),
    )
    op.create_table(
        "passes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("rule", sa.String(36), nullable=False, index=True),
        sa.Column("began", sa.Float, nullable=False),
        sa.Column("ended", sa.Float, nullable=False, index=True),
        sa.Column("told", sa.JSON, nullable=False),
    )
    op.create_table(
        "traffic",
        _of_rule(),
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("start", sa.Integer, primary_key=True),
        sa.Column("sent", sa.BigInteger, nullable=False),
        sa.Column("lag_ms", sa.Integer, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )


def _item() -> tuple[sa.Column[int] | sa.Column[str], ...]:
    user = sa.ForeignKey("users.id")
    return (
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uuid", sa.String(36), nullable=False, unique=True),
        sa.Column("name", sa.String(255), nullable=False, unique=True),
        sa.Column("random_str", sa.String(36), nullable=False),
        sa.Column("user_id", sa.Integer, user, nullable=False, index=True),
        sa.Column("created", sa.Integer, nullable=False),
        sa.Column("updated", sa.Integer, nullable=False),
    )


def _of_rule() -> sa.Column[int]:
    rule = sa.ForeignKey("rules.id", ondelete="CASCADE")
    return sa.Column("rule_id", sa.Integer, rule, primary_key=True)
