"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    make_sets()
    make_labelers()
    make_rankings()
    make_assignments()
    make_what_users_leave()


def make_sets() -> None:
    op.create_table(
        "criterion",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_criterion"),
    )
    op.create_table(
        "instruction",
        sa.Column("criterion", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["criterion"], ["criterion.name"], name="fk_instruction_criterion"),
        sa.PrimaryKeyConstraint("criterion", "version", name="pk_instruction"),
    )
    op.create_table(
        "prompt",
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("prompt_id", name="pk_prompt"),
    )
    op.create_table(
        "comparison_set",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("set_id", sa.Text(), nullable=False),
        sa.Column("criterion", sa.Text(), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("draw", sa.Double(), nullable=False),
        sa.Column("counted", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.Column("completions", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["criterion"], ["criterion.name"], name="fk_comparison_set_criterion"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.prompt_id"], name="fk_comparison_set_prompt_id"),
        sa.PrimaryKeyConstraint("number", name="pk_comparison_set"),
        sa.UniqueConstraint("set_id", name="uq_comparison_set_set_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_comparison_set_counted_number_draw_set_id", "comparison_set", ["counted", "number", "draw", "set_id"]
    )
    op.create_index("ix_comparison_set_prompt_id", "comparison_set", ["prompt_id"])
    op.create_index("ix_comparison_set_user_id", "comparison_set", ["user_id"])
    op.create_table(
        "gold",
        sa.Column("set_id", sa.Text(), nullable=False),
        sa.Column("ranks", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["set_id"], ["comparison_set.set_id"], name="fk_gold_set_id"),
        sa.PrimaryKeyConstraint("set_id", name="pk_gold"),
    )


def make_labelers() -> None:
    op.create_table(
        "labeler",
        sa.Column("labeler_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("labeler_id", name="pk_labeler"),
    )
    op.create_table(
        "sign_in",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("labeler_id", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["labeler_id"], ["labeler.labeler_id"], name="fk_sign_in_labeler_id"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_sign_in"),
    )
    op.create_table(
        "session",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("labeler_id", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["labeler_id"], ["labeler.labeler_id"], name="fk_session_labeler_id"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_session"),
    )
    op.create_table(
        "exclusion_event",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("labeler_id", sa.Text(), nullable=False),
        sa.Column("excluded", sa.Boolean(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["labeler_id"], ["labeler.labeler_id"], name="fk_exclusion_event_labeler_id"),
        sa.PrimaryKeyConstraint("number", name="pk_exclusion_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_exclusion_event_labeler_id", "exclusion_event", ["labeler_id"])


def make_rankings() -> None:
    op.create_table(
        "overlap",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("each", sa.Integer(), nullable=False),
        sa.Column("calibration_share", sa.Double(), nullable=False),
        sa.Column("calibration_each", sa.Integer(), nullable=False),
        sa.Column("lease_seconds", sa.Double(), nullable=False),
        sa.Column("gold_share", sa.Double(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_overlap"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ranking_event",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("set_id", sa.Text(), nullable=False),
        sa.Column("labeler_id", sa.Text(), nullable=False),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("ranks", sa.Text(), nullable=False),
        sa.Column("flags", sa.Text(), nullable=False),
        sa.Column("shown_order", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("instruction_version", sa.Text(), nullable=False),
        sa.Column("client_time", sa.Text(), nullable=True),
        sa.Column("surplus", sa.Boolean(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("texts", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["labeler_id"], ["labeler.labeler_id"], name="fk_ranking_event_labeler_id"),
        sa.ForeignKeyConstraint(["set_id"], ["comparison_set.set_id"], name="fk_ranking_event_set_id"),
        sa.PrimaryKeyConstraint("number", name="pk_ranking_event"),
        sa.UniqueConstraint("key", name="uq_ranking_event_key"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_ranking_event_set_id_labeler_id_again_number", "ranking_event", ["set_id", "labeler_id", "again", "number"]
    )


def make_assignments() -> None:
    op.create_table(
        "assignment",
        sa.Column("set_id", sa.Text(), nullable=False),
        sa.Column("labeler_id", sa.Text(), nullable=False),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("event", NUMBER, nullable=True),
        sa.ForeignKeyConstraint(["event"], ["ranking_event.number"], name="fk_assignment_event"),
        sa.ForeignKeyConstraint(["labeler_id"], ["labeler.labeler_id"], name="fk_assignment_labeler_id"),
        sa.ForeignKeyConstraint(["set_id"], ["comparison_set.set_id"], name="fk_assignment_set_id"),
        sa.PrimaryKeyConstraint("set_id", "labeler_id", "again", name="pk_assignment"),
    )
    op.create_index("ix_assignment_event", "assignment", ["event"])
    op.create_index("ix_assignment_labeler_id_state_turn", "assignment", ["labeler_id", "state", "turn"])
    op.create_index("ix_assignment_state_lease_until", "assignment", ["state", "lease_until"])
    op.create_table(
        "draft",
        sa.Column("set_id", sa.Text(), nullable=False),
        sa.Column("labeler_id", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["labeler_id"], ["labeler.labeler_id"], name="fk_draft_labeler_id"),
        sa.ForeignKeyConstraint(["set_id"], ["comparison_set.set_id"], name="fk_draft_set_id"),
        sa.PrimaryKeyConstraint("set_id", "labeler_id", name="pk_draft"),
    )


def make_what_users_leave() -> None:
    op.create_table(
        "rating_event",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("label", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.prompt_id"], name="fk_rating_event_prompt_id"),
        sa.PrimaryKeyConstraint("number", name="pk_rating_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rating_event_prompt_id", "rating_event", ["prompt_id"])
    op.create_index(
        "ix_rating_event_user_id_prompt_id_answer_number", "rating_event", ["user_id", "prompt_id", "answer", "number"]
    )
    op.create_table(
        "edit_event",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("original", sa.Text(), nullable=True),
        sa.Column("edited", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.prompt_id"], name="fk_edit_event_prompt_id"),
        sa.PrimaryKeyConstraint("number", name="pk_edit_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_edit_event_prompt_id", "edit_event", ["prompt_id"])
    op.create_index("ix_edit_event_user_id", "edit_event", ["user_id"])
    op.create_table(
        "seen_by_version",
        sa.Column("data_hash", sa.Text(), nullable=False),
        sa.Column("set_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("data_hash", "set_id", "version", name="pk_seen_by_version"),
    )
    op.create_index("ix_seen_by_version_set_id", "seen_by_version", ["set_id"])
