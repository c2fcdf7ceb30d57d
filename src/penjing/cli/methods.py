"""penjing methods: everything that can be done to a model, where it is from, and when to do it."""

from penjing.cli.derive import WIDTH, Panels
from penjing.cli.options import AsJson, app, say


@app.command(cls=Panels)
def methods(as_json: AsJson = False) -> None:
    """Every method with its paper, and a line on when to use it."""
    from penjing.job.methods import METHODS

    rows = [{"group": row.group, "name": row.name, "paper": row.paper, "when": row.when} for row in METHODS]
    say({"methods": rows}, as_json, _text(rows))


def _text(rows: list[dict[str, str]]) -> str:
    """Groups, and below each the methods in 80 columns."""
    import textwrap

    lines: list[str] = []
    group = ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            lines += ["", group]
        lines.append(f"  {row['name']}: {row['paper']}" if row["paper"] else f"  {row['name']}")
        lines += textwrap.wrap(row["when"], WIDTH, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(line for text in lines[1:] for line in (textwrap.wrap(text, WIDTH, subsequent_indent="      ") or [""]))
