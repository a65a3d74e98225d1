"""The report as HTML text: `page`. What came from outside is escaped, and the page allows no script but its own.

    head      what came of the batch, in a line and a bar
    failures  who failed, with the sentence why
    table     one line per video, sortable
    sheets    one small contact sheet per video

The page's own policy (Content-Security-Policy) allows its style and its one script by their hashes and nothing else, so
that text which slipped through the escaping could still not run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from vos.batch.report_pictures import Thumbnail, thumbnails
from vos.batch.report_style import SCRIPT, STYLE
from vos.wording import printable

if TYPE_CHECKING:
    from vos.batch.report import ReportRow

_OUTCOMES = ("done", "failed", "interrupted", "running", "waiting", "no prompt")
_FAILURES_SHOWN = 20  # the others unfold
_COLUMNS = (  # heading, class, whether it sorts by number
    ("#", "n", True),
    ("video", "name", False),
    ("outcome", "", False),
    ("frames", "n", True),
    ("time", "n", True),
    ("frames/s", "n", True),
    ("J&F", "n score", True),
    ("J", "n score", True),
    ("F", "n score", True),
    ("what was said", "said", False),
)


def page(rows: Sequence[ReportRow], *, title: str, made: datetime, wall_seconds: float | None, home: Path) -> str:
    """The whole page. home: the folder that it will lie in; links to results are relative to it."""
    pictures = thumbnails([row.folder for row in rows])
    body = [
        *_head(rows, title, made, wall_seconds),
        *_failures(rows),
        *_table(rows, home),
        *_sheets(rows, pictures, home),
    ]
    return "\n".join([*_document_head(title), "<body>", *body, f"<script>{SCRIPT}</script>", "</body>", "</html>", ""])


def _document_head(title: str) -> Iterator[str]:
    policy = f"default-src 'none'; img-src data:; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; base-uri 'none'"
    yield "<!DOCTYPE html>"
    yield '<html lang="en">'
    yield '<head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield '<meta name="referrer" content="no-referrer">'
    yield f"<title>{_text(title)}</title>"
    yield f"<style>{STYLE}</style></head>"


def _hash(content: str) -> str:
    """The content's name in a policy (CSP level 2, section 4.2.5)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _head(rows: Sequence[ReportRow], title: str, made: datetime, wall_seconds: float | None) -> Iterator[str]:
    counts: Counter[str] = Counter(row.outcome for row in rows)
    frames, work = sum(row.frames for row in rows), sum(row.seconds for row in rows)
    parts = [f"{frames:,} frames"]
    if work > 0:
        parts.append(f"{duration(work)} of work")
    if wall_seconds:
        parts.append(f"{duration(wall_seconds)} from start to end, {frames / wall_seconds:.1f} frames/s")
    scored = [row.scores for row in rows if row.scores is not None]
    if scored:
        mean = math.fsum(score.j_and_f for score in scored) / len(scored)
        parts.append(f"J&F {_figure(mean)}, mean of {_count(len(scored), 'video')} with ground truth")
    yield "<header>"
    yield f"<h1>{_text(title)}</h1>"
    yield f'<p class="faint">{_text(made.strftime("%Y-%m-%d %H:%M %Z").strip())}</p>'
    yield '<ul class="counts">'
    yield f"<li><b>{len(rows):,}</b> {'video' if len(rows) == 1 else 'videos'}</li>"
    for outcome in _OUTCOMES:
        if counts[outcome]:
            yield f'<li class="{_kind(outcome)}"><b>{counts[outcome]:,}</b> {outcome}</li>'
    yield "</ul>"
    yield _bar(counts, len(rows))
    yield f"<p>{_text('; '.join(parts))}</p>"
    yield f"<nav>{' '.join(_places(rows))}</nav>"
    yield "</header>"


def _places(rows: Sequence[ReportRow]) -> Iterator[str]:
    """Links to the parts of the page."""
    if any(row.outcome == "failed" for row in rows):
        yield _link("#failed", "What failed")
    yield _link("#videos", "Videos")
    if any(row.folder is not None for row in rows):
        yield _link("#sheets", "Contact sheets")


def _bar(counts: Counter[str], total: int) -> str:
    """The outcomes as parts of one bar."""
    if not total:
        return ""
    x, parts = 0.0, []
    for outcome in _OUTCOMES:
        if width := 100 * counts[outcome] / total:
            parts.append(f'<rect class="{_kind(outcome)}" x="{x:.3f}" width="{width:.3f}" height="2"/>')
            x += width
    words = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _OUTCOMES if counts[outcome])
    form = 'class="bar" viewBox="0 0 100 2" preserveAspectRatio="none" role="img"'
    return f'<svg {form} aria-label="{words}">{"".join(parts)}</svg>'


def _failures(rows: Sequence[ReportRow]) -> Iterator[str]:
    failed = [(i, row) for i, row in enumerate(rows, 1) if row.outcome == "failed"]
    if not failed:
        return
    lines = [
        f"<dt>{_link(f'#r{i}', row.name)}</dt><dd>{_text(row.message or 'no reason was recorded')}</dd>"
        for i, row in failed
    ]
    yield '<section><h2 id="failed">What failed</h2>'
    yield f'<dl class="failed">{"".join(lines[:_FAILURES_SHOWN])}</dl>'
    if rest := lines[_FAILURES_SHOWN:]:
        yield f'<details><summary>{len(rest):,} more</summary><dl class="failed">{"".join(rest)}</dl></details>'
    yield "</section>"


def _table(rows: Sequence[ReportRow], home: Path) -> Iterator[str]:
    scored = any(row.scores is not None for row in rows)
    columns = [column for column in _COLUMNS if scored or "score" not in column[1]]
    yield '<section><h2 id="videos">Videos</h2><div class="wide"><table><thead><tr>'
    for name, kind, numeric in columns:
        attributes = (f' class="{kind}"' if kind else "") + (" data-numeric" if numeric else "")
        yield f'<th scope="col"{attributes}>{_text(name)}</th>'
    yield "</tr></thead><tbody>"
    for i, row in enumerate(rows, 1):
        yield _line(i, row, scored, home)
    yield "</tbody></table></div></section>"


def _line(number: int, row: ReportRow, scored: bool, home: Path) -> str:
    said = [f"<span>{_text(row.message)}</span>"] if row.message else []
    said += [f'<span class="faint">{_text(warning)}</span>' for warning in row.warnings]
    rate = row.frames / row.seconds if row.frames and row.seconds > 0 else None
    cells = [
        _number(number, str(number)),
        f'<td class="name">{_link(f"#s{number}", row.name) if row.folder is not None else _text(row.name)}</td>',
        f'<td><span class="outcome {_kind(row.outcome)}">{_text(row.outcome)}</span></td>',
        _number(row.frames, f"{row.frames:,}" if row.frames else "-"),
        _number(row.seconds, duration(row.seconds) if row.seconds > 0 else "-"),
        _number(rate, "-" if rate is None else f"{rate:.1f}"),
    ]
    if scored:
        found = row.scores
        values = (None, None, None) if found is None else (found.j_and_f, found.J, found.F)
        cells += [_number(value, _figure(value)) for value in values]
    cells.append(f'<td class="said">{"<br>".join(said)}</td>')
    return f'<tr id="r{number}">{"".join(cells)}</tr>'


def _number(value: float | None, text: str) -> str:
    """A cell with the value that it is sorted by; one without a value sorts last."""
    key = "" if value is None or not math.isfinite(value) else f' data-value="{value:.6g}"'
    return f'<td class="n"{key}>{_text(text)}</td>'


def _sheets(rows: Sequence[ReportRow], pictures: Sequence[Thumbnail | None], home: Path) -> Iterator[str]:
    shown = [(i, row, picture) for i, (row, picture) in enumerate(zip(rows, pictures, strict=True), 1) if row.folder]
    if not shown:
        return
    yield '<section><h2 id="sheets">Contact sheets</h2>'
    left_out = sum(picture is None for _, _, picture in shown)
    if left_out:
        yield f'<p class="faint">{_count(left_out, "video")} without a picture here; their results are linked.</p>'
    widest = max((picture.width for _, _, picture in shown if picture is not None), default=0)
    yield f'<div class="sheets {"large" if widest > 480 else "small"}">'
    for number, row, picture in shown:
        yield _sheet(number, row, picture, home)
    yield "</div></section>"


def _sheet(number: int, row: ReportRow, picture: Thumbnail | None, home: Path) -> str:
    image = ""
    if picture is not None:
        data = base64.b64encode(picture.jpeg).decode("ascii")
        image = (
            f'<img width="{picture.width}" height="{picture.height}" decoding="async" '
            f'alt="contact sheet of {_text(row.name)}" src="data:image/jpeg;base64,{data}">'
        )
    score = "" if row.scores is None else f" J&amp;F {_figure(row.scores.j_and_f)}"
    results = "" if row.folder is None else _link(address(row.folder, home), "results")
    return (
        f'<figure id="s{number}">{image}<figcaption>{_link(f"#r{number}", row.name)} '
        f'<span class="outcome {_kind(row.outcome)}">{_text(row.outcome)}</span>{score} {results}</figcaption></figure>'
    )


def address(folder: Path, home: Path) -> str:
    """A link to ``folder`` from a page in ``home``: relative, or a file URL where it lies on another drive.

    Every byte that is not plain is percent-encoded, and a leading ``./`` keeps a colon in a name from being a scheme.
    """
    try:
        relative = os.path.relpath(folder, home)
    except ValueError:  # another drive
        return Path(os.path.abspath(folder)).as_uri()
    return "./" + quote(os.fsencode(Path(relative).as_posix())) + "/"


def duration(seconds: float) -> str:
    """``3 h 12 min``, ``4 min 05 s``, ``12.3 s``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def _link(target: str, text: str) -> str:
    return f'<a href="{html.escape(target)}">{_text(text)}</a>'


def _text(text: str) -> str:
    """Text from anywhere as HTML: markup escaped, and what would not be visible shown as its code."""
    return html.escape(printable(text))


def _kind(outcome: str) -> str:
    """The outcome as a class of the style."""
    return outcome.replace(" ", "-") if outcome in _OUTCOMES else "other"


def _figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
