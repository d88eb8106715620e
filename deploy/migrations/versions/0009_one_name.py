"""One name for an asset and a horizon; the window that a book's producers are scored over never goes backwards.

What was recorded under several spellings (BTCUSDT and BTC/USDT, 60m and 1h) meets under one; the sender's is kept
beside a forecast. Sums and pairs of the books concerned are added up again by the next resolution.
"""

import sqlalchemy as sa
from alembic import op

from closeloop.models.assets import canonical_asset
from closeloop.models.forecasts import canonical_length

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ASSET = "coalesce((SELECT name FROM renamed_assets r WHERE r.sent = t.asset), t.asset)"
_HORIZON = "coalesce((SELECT name FROM renamed_horizons r WHERE r.sent = t.horizon), t.horizon)"
_IS_RENAMED = "(t.asset IN (SELECT sent FROM renamed_assets) OR t.horizon IN (SELECT sent FROM renamed_horizons))"


def upgrade() -> None:
    for name in ("asset_sent", "horizon_sent"):
        op.add_column("forecasts", sa.Column(name, sa.Text(collation="C"), nullable=True))
    op.create_table(
        "performance_windows",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("written", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("book_id"),
    )
    op.execute(
        "INSERT INTO performance_windows SELECT book_id, max(as_of), 1 FROM ("
        "SELECT book_id, as_of FROM producer_performance UNION ALL SELECT book_id, as_of FROM producer_correlation"
        ") w GROUP BY 1"
    )
    _rename()


def _rename() -> None:
    connection = op.get_bind()
    assets = "SELECT asset FROM forecasts UNION SELECT asset FROM price_history UNION SELECT asset FROM price_coverage"
    for table, query, named in (
        ("renamed_assets", assets, canonical_asset),
        ("renamed_horizons", "SELECT DISTINCT horizon FROM forecasts", canonical_length),
    ):
        sent = connection.execute(sa.text(query)).scalars()
        rows = [{"sent": one, "name": named(one)} for one in sent if named(one) != one]
        op.execute(f'CREATE TEMPORARY TABLE {table} (sent text COLLATE "C" PRIMARY KEY, name text COLLATE "C")')
        if rows:
            connection.execute(sa.text(f"INSERT INTO {table} VALUES (:sent, :name)"), rows)  # noqa: S608
    op.execute(
        "INSERT INTO performance_due (book_id, day) SELECT book_id, day FROM ("  # noqa: S608
        "SELECT book_id, day FROM producer_daily_bins UNION SELECT book_id, day FROM pair_daily) d "
        f"WHERE book_id IN (SELECT book_id FROM forecasts t WHERE {_IS_RENAMED}) ON CONFLICT DO NOTHING"
    )
    op.execute(
        f"UPDATE forecasts t SET asset = {_ASSET}, horizon = {_HORIZON}, "  # noqa: S608
        "asset_sent = (SELECT sent FROM renamed_assets r WHERE r.sent = t.asset), "
        "horizon_sent = (SELECT sent FROM renamed_horizons r WHERE r.sent = t.horizon) "
        f"WHERE {_IS_RENAMED}"
    )
    op.execute(
        f"UPDATE forecast_resolution_state t SET asset = {_ASSET} "  # noqa: S608
        "WHERE t.asset IN (SELECT sent FROM renamed_assets)"
    )
    for table in ("forecast_outcomes", "producer_daily_bins", "pair_daily"):
        op.execute(f"UPDATE {table} t SET asset = {_ASSET}, horizon = {_HORIZON} WHERE {_IS_RENAMED}")  # noqa: S608
    # Scores of one slice under two names cannot be put together: the next resolution computes them.
    for table, key in (("producer_performance", "producer_id, regime"), ("producer_correlation", "first, second")):
        op.execute(
            f"DELETE FROM {table} d USING (SELECT t.ctid AS at, count(*) OVER (PARTITION BY t.book_id, {key}, "  # noqa: S608
            f"{_ASSET}, {_HORIZON}) AS spellings FROM {table} t) n WHERE d.ctid = n.at AND n.spellings > 1"
        )
        op.execute(f"UPDATE {table} t SET asset = {_ASSET}, horizon = {_HORIZON} WHERE {_IS_RENAMED}")  # noqa: S608
    # Two decisions of one instant keep two keys; only one of them is what is looked up.
    op.execute(
        "UPDATE meta_decisions d SET asset = n.asset, horizon = n.horizon, dedupe_key = CASE WHEN n.place = 1 "  # noqa: S608
        "THEN n.key ELSE d.dedupe_key END FROM (SELECT m.*, row_number() OVER (PARTITION BY key "
        "ORDER BY dedupe_key <> key, id) AS place FROM (SELECT t.id, t.dedupe_key, "
        f"{_ASSET} AS asset, {_HORIZON} AS horizon, t.book_id || '/' || {_HORIZON} || '/' || "
        f"split_part(t.dedupe_key, '/', 3) || '/' || {_ASSET} AS key FROM meta_decisions t) m) n "
        "WHERE n.id = d.id AND (n.asset, n.horizon) <> (d.asset, d.horizon)"
    )
    # Of one candle under two names, that of the one name stays, else that of the first in the alphabet.
    for table, same in (
        ("price_history", "(o.interval_seconds, o.ends_at) = (t.interval_seconds, t.ends_at)"),
        ("price_coverage", "(o.interval_seconds, o.from_at, o.to_at) = (t.interval_seconds, t.from_at, t.to_at)"),
    ):
        op.execute(
            f"DELETE FROM {table} t USING renamed_assets r WHERE t.asset = r.sent AND EXISTS ("  # noqa: S608
            f"SELECT 1 FROM {table} o WHERE {same} AND (o.asset = r.name OR o.asset IN "
            "(SELECT s.sent FROM renamed_assets s WHERE s.name = r.name AND s.sent < r.sent)))"
        )
        op.execute(f"UPDATE {table} t SET asset = r.name FROM renamed_assets r WHERE t.asset = r.sent")  # noqa: S608
    op.execute("DROP TABLE renamed_assets")
    op.execute("DROP TABLE renamed_horizons")


def downgrade() -> None:
    op.drop_table("performance_windows")
    for name in ("horizon_sent", "asset_sent"):
        op.drop_column("forecasts", name)
