"""The page about a batch: well-formed, whole in one file, no markup in it that others wrote, bounded in size."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seem_core.errors import OutputError
from vos.batch.report import ReportRow, write_report
from vos.batch.report_page import address, duration
from vos.batch.report_pictures import thumbnails
from vos.benchmarks.scores import SequenceScore

VOID_TAGS = {"meta", "img", "br"}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "javascript:alert(1)",
    "&lt;b&gt;",
    "\x1b[31mred\x07",
    "two\nlines",
    "\u202egnp.exe",
    os.fsdecode(b"caf\xe9 \xff"),
]  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, the text of cells. Fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> in {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [str(attrs[attribute]) for name, attrs in self.tags if name == tag and attribute in attrs]

    def pictures(self) -> list[Image.Image]:
        sources = self.all("img", "src")
        assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


def results(folder: Path, *, size: tuple[int, int] = (320, 200), seed: int = 0) -> Path:
    """A results folder with a contact sheet of noise, the hardest to compress."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(folder / "contact.png")
    return folder


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_shows_every_video_with_its_figures_and_its_sheet(tmp_path: Path) -> None:
    rows = [
        ReportRow("dog", "done", 120, 10.0, folder=results(tmp_path / "dog"), scores=SequenceScore("dog", 0.8, 0.9)),
        ReportRow("cat", "failed", seconds=0.5, message="cannot read cat.mp4: the file is empty"),
        ReportRow("cow", "interrupted", 7, 3700.0, warnings=("cow.mp4 ends early",), folder=tmp_path / "cow"),
        ReportRow("bee", "no prompt"),
    ]
    path = write_report(
        tmp_path / "report.html", rows, title="night", made=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), wall_seconds=100
    )
    page = read(path)
    assert page.rows == [
        ["#", "video", "outcome", "frames", "time", "frames/s", "J&F", "J", "F", "what was said"],
        ["1", "dog", "done", "120", "10.0 s", "12.0", "0.850", "0.800", "0.900", ""],
        ["2", "cat", "failed", "-", "0.5 s", "-", "-", "-", "-", "cannot read cat.mp4: the file is empty"],
        ["3", "cow", "interrupted", "7", "1 h 01 min", "0.0", "-", "-", "-", "cow.mp4 ends early"],
        ["4", "bee", "no prompt", "-", "-", "-", "-", "-", "-", ""],
    ]
    (picture,) = page.pictures()
    assert picture.size == (320, 200)
    text = path.read_text(encoding="utf-8")
    assert "2026-01-02 03:04 UTC" in text
    assert "127 frames; 1 h 01 min of work; 1 min 40 s from start to end" in text
    assert "J&amp;F 0.850, mean of 1 video with ground truth" in text
    assert "1 video without a picture here" in text  # cow


def test_every_link_inside_the_page_leads_somewhere(tmp_path: Path) -> None:
    rows = [ReportRow(f"v{i}", "failed" if i % 2 else "done", folder=tmp_path / f"v{i}") for i in range(60)]
    page = read(write_report(tmp_path / "r.html", rows))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    inner = {link[1:] for link in page.all("a", "href") if link.startswith("#")}
    assert inner
    assert inner <= ids
    assert "10 more" in (tmp_path / "r.html").read_text(encoding="utf-8")  # of 30 that failed


def test_without_truth_there_are_no_columns_of_scores_and_without_videos_no_fault(tmp_path: Path) -> None:
    assert "J&F" not in read(write_report(tmp_path / "a.html", [ReportRow("v", "done", 1, 1.0)])).rows[0]
    assert len(read(write_report(tmp_path / "b.html", [])).rows) == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_is_text(tmp_path: Path, text: str) -> None:
    row = ReportRow(text, "failed", message=text, warnings=(text,), folder=tmp_path / text.replace("/", "_"))
    page = read(write_report(tmp_path / "report.html", [row], title=text))
    plain = read(write_report(tmp_path / "plain.html", [ReportRow("x", "failed", message="x", warnings=("x",),
                                                                  folder=tmp_path / "x")], title="x"))  # fmt: skip
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attrs) for _, attrs in page.tags] == [sorted(attrs) for _, attrs in plain.tags]
    assert all(link.startswith(("#", "./")) for link in page.all("a", "href"))
    shown = "".join(page.rows[1])
    assert shown.isprintable()
    assert "\u202e" not in shown


@settings(max_examples=40)
@given(st.text())
def test_any_name_leaves_the_page_well_formed(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("page") / "r.html"
    page = read(write_report(path, [ReportRow(name, "failed", message=name)], title=name))
    assert len(page.scripts) == 1
    assert len(page.rows) == 2


def test_the_pages_policy_names_its_style_and_script_and_allows_nothing_else(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", [ReportRow("v", "done", folder=results(tmp_path / "v"))])
    text, page = path.read_text(encoding="utf-8"), read(path)
    policy = next(c for c in page.all("meta", "content") if "default-src" in c)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        content = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(content) == 1
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert not [attribute for _, attrs in page.tags for attribute in attrs if attribute.startswith("on")]
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


@pytest.mark.parametrize("name", ["a b#c?d%e", "javascript:x", "..", os.fsdecode(b"caf\xe9\xff"), "a&b;\"'<>", "\n"])
def test_links_lead_to_the_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    link = address(tmp_path / "out" / name, tmp_path)
    assert re.fullmatch(r"\./[A-Za-z0-9_.~%/-]*", link)
    assert os.path.abspath(os.path.join(tmp_path, os.fsdecode(unquote_to_bytes(link)))) == os.path.abspath(
        tmp_path / "out" / name
    )


def test_many_pictures_stay_within_the_bytes_for_all(tmp_path: Path) -> None:
    folders: list[Path | None] = [results(tmp_path / str(i), seed=i) for i in range(12)]
    few, many = thumbnails(folders[:2], 60_000), thumbnails([*folders, None], 60_000)
    assert all(few)
    assert all(many[:12])
    assert many[12] is None
    for found in (few, many):
        assert sum(len(picture.jpeg) for picture in found if picture is not None) <= 60_000
    assert few[0] is not None
    assert many[0] is not None
    assert few[0].width > many[0].width >= 96
    assert thumbnails(folders, 100) == [None] * 12  # no room for any


def test_what_is_no_contact_sheet_of_ours_is_left_out(tmp_path: Path) -> None:
    """Damaged, of another format under that name, a link to elsewhere, larger than any of ours."""
    damaged, jpeg, link, giant = (results(tmp_path / name) for name in ("damaged", "jpeg", "link", "giant"))
    (damaged / "contact.png").write_bytes((damaged / "contact.png").read_bytes()[:2000])
    Image.new("RGB", (9, 9)).save(jpeg / "contact.png", "JPEG")
    (link / "contact.png").rename(tmp_path / "private.png")
    (link / "contact.png").symlink_to(tmp_path / "private.png")
    Image.new("1", (4200, 4200)).save(giant / "contact.png")
    assert thumbnails([damaged, jpeg, link, giant, tmp_path / "missing"]) == [None] * 5


def test_the_page_appears_whole_or_an_error_says_why_not(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        write_report(tmp_path / "missing" / "r.html", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (125, "2 min 05 s"), (3599.6, "1 h 00 min"),
     (45296, "12 h 34 min")],
)  # fmt: skip
def test_durations_as_people_write_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
