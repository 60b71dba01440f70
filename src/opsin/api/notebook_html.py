"""HTML fragments for notebooks."""

from collections.abc import Sequence
from html import escape

from opsin.visualization.images import Pixels, data_uri


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Return a table of text; without a header, the first cell of each row is its heading."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = ""
    for row in rows:
        kinds = ["td" if header or i else "th" for i in range(len(row))]
        cells = zip(kinds, row, strict=True)
        body += f"<tr>{''.join(f'<{kind} style=text-align:left>{escape(cell)}</{kind}>' for kind, cell in cells)}</tr>"
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if header else ''}<tbody>{body}</tbody></table>"


def caption(text: str) -> str:
    """Return a paragraph; empty text gives nothing."""
    return f"<p>{escape(text)}</p>" if text else ""


def picture(image: Pixels, text: str) -> str:
    """Return an image with a caption."""
    return f'<figure><img src="{data_uri(image)}" alt="{escape(text)}"><figcaption>{escape(text)}</figcaption></figure>'
