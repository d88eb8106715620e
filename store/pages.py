"""Pages of lists that have an order of their own."""


def page(query: str, *, key: str, order: str) -> str:
    """SQL for a page of a query's rows in an order: the last ``:last`` of those before the row named ``:before``.

    ``key`` is the column that names a row, of type text; a null ``:last`` or ``:before`` sets no limit. All three are
    SQL of the caller's, never data. Rows come in order, with their number in it as ``place``.
    """
    return (
        f"WITH listed AS (SELECT q.*, row_number() OVER (ORDER BY {order}) AS place FROM ({query}) q), "  # noqa: S608
        "page AS (SELECT * FROM listed WHERE CAST(:before AS text) IS NULL "
        f"OR place < (SELECT place FROM listed WHERE {key} = CAST(:before AS text)) "
        "ORDER BY place DESC LIMIT CAST(:last AS bigint)) SELECT * FROM page ORDER BY place"
    )
