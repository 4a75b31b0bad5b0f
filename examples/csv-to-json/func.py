import csv
import io
import json
import logging

from fdk import response

ROWS_MAX = 100_000


def handler(ctx, data: io.BytesIO = None):
    """Turn a CSV file with a header line into a JSON list of objects."""
    try:
        text = data.getvalue().decode("utf-8-sig")
        rows = to_rows(text)
    except (UnicodeDecodeError, csv.Error, ValueError) as exc:
        logging.getLogger().warning("refused: %s", exc)
        return answer(ctx, {"error": str(exc)}, 400)
    logging.getLogger().info("%d rows", len(rows))
    return answer(ctx, rows, 200)


def to_rows(text: str) -> list:
    rows = []
    for row in csv.DictReader(io.StringIO(text), strict=True):
        if None in row or None in row.values():
            raise ValueError(f"row {len(rows) + 2} has not as many fields as the header line")
        rows.append(row)
        if len(rows) > ROWS_MAX:
            raise ValueError(f"more than {ROWS_MAX} rows")
    return rows


def answer(ctx, body, status):
    return response.Response(
        ctx,
        response_data=json.dumps(body),
        headers={"Content-Type": "application/json"},
        status_code=status,
    )
