"""Teaches schemathesis the one format of bodies that it does not write by itself."""

import csv
import io

import schemathesis


@schemathesis.serializer("text/csv")
def table(context, value):
    """A list of records as a table; anything else, which no table is, as its text."""
    if isinstance(value, bytes):
        return value
    if not (isinstance(value, list) and value and all(isinstance(record, dict) for record in value)):
        return str(value).encode(errors="replace")
    names = list(dict.fromkeys(str(name) for record in value for name in record))
    lines = io.StringIO()
    writer = csv.DictWriter(lines, names, restval="")
    writer.writeheader()
    writer.writerows(value)
    return lines.getvalue().encode(errors="replace")
