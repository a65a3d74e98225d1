"""The promises of SECURITY.md, one test or more for each; the file names the tests, and that is tested too."""

from __future__ import annotations

import ast
import json
import logging
import os
import pickle
import re
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import HEIGHT, WIDTH, write_clip, write_mask
from safetensors.torch import save_file

from cli import console
from cli.main import run
from seem_core.checkpoint import read_card
from seem_core.errors import CheckpointError, InputError, MaskError, OutputError, PromptError, VideoError, VosError
from seem_core.official_file import read_official
from seem_core.reader_weights import load_reader
from seem_core.refiner_weights import load_refiner
from trackers.memory_file import load_memory, objects_of
from vos.batch.report import ReportRow, write_report
from vos.editor_folder import EditorFolder
from vos.label_files import read_labels, write_whole
from vos.mask_spool import MaskSpool
from vos.masks import read_prompt_mask
from vos.output import ResultFolder
from vos.picture_limit import DEFAULT_MAX_PIXELS
from vos.prompt_file import PromptTarget, read_prompts
from vos.render import render
from vos.run_record import read_frames, read_run
from vos.to_folder import track_to_folder
from vos.tracker_states import TrackerStates
from vos.video import open_video
from vos.wording import printable

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for package in ("cli", "vos", "trackers", "seem_core") for path in (ROOT / package).rglob("*.py"))
OWN_PIPES = {"vos/batch/worker.py", "vos/batch/worker_process.py"}  # pickled between a process and its own child
STARTS_PROGRAMS = {"vos/batch/worker_process.py", "vos/batch/machine.py"}
USES_NETWORK = {"seem_core/download.py", "vos/batch/ray_worker.py"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported(tree: ast.AST) -> set[str]:
    """First parts of the names of all modules that are imported."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names}


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_bytes()) for path in SOURCES}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A finished run's folder, without pictures."""
    clip, mask = write_clip(tmp_path / "clip.mp4", 3), write_mask(tmp_path / "first.png")
    track_to_folder(clip, tmp_path / "out", mask=mask, options=quick(), save={"masks"})
    return tmp_path / "out"


def quick() -> Any:
    from vos.pipeline import TrackOptions

    return TrackOptions("copy")


def with_mask(result: Path, name: str) -> None:
    """Have the second line of frames.jsonl name another mask."""
    lines = [json.loads(line) for line in (result / "frames.jsonl").read_text().splitlines()]
    lines[1]["mask"] = name
    (result / "frames.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


# --- 1. nothing that a file says is run ------------------------------------------------------------------------------


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.trace), "w")


def test_the_sources_unpickle_nothing_of_the_users(trees: dict[str, ast.Module]) -> None:
    for name, tree in trees.items():
        assert not imported(tree) & {"dill", "joblib", "shelve", "marshal", "yaml", "cloudpickle"}, name
        for called, call in calls(tree):
            options = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert called not in ("eval", "exec", "compile", "__import__"), f"{name}: {called}"
            if called == "torch.load":
                assert options.get("weights_only") == "True", f"{name}: torch.load"
            if called in ("np.load", "numpy.load"):
                assert options.get("allow_pickle") == "False", f"{name}: np.load"
            if called in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
                assert name in OWN_PIPES, f"{name}: {called}"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.pt", read_official), ("a.safetensors", load_refiner), ("b.safetensors", load_reader),
        ("c.safetensors", read_card), ("d.safetensors", objects_of), ("a.npy", read_prompt_mask),
        ("a.png", read_prompt_mask), ("a.json", lambda path: read_prompts(path, PromptTarget((9, 9)))),
        ("a.mp4", open_video), ("e.safetensors", lambda path: load_memory(path, model="any")),
    ],
)  # fmt: skip
def test_a_pickle_under_any_name_is_refused_and_not_run(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    trace, path = tmp_path / "trace", tmp_path / name
    if name.endswith(".npy"):
        trap = np.empty(1, object)
        trap[0] = Trap(trace)
        np.save(path, trap, allow_pickle=True)
    elif name.endswith(".pt"):
        torch.save({"model": Trap(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(VosError):
        read(path)
    assert not trace.exists()


# --- 2. no shell, no other program, no network ----------------------------------------------------------------------


def test_the_sources_start_no_shell_and_no_program_but_their_own(trees: dict[str, ast.Module]) -> None:
    for name, tree in trees.items():
        if "subprocess" in imported(tree):
            assert name in STARTS_PROGRAMS, name
        for called, call in calls(tree):
            assert called not in ("os.system", "os.popen", "os.startfile", "pty.spawn"), f"{name}: {called}"
            assert not re.match(r"os\.(exec|spawn|posix_spawn)", called), f"{name}: {called}"
            assert not any(word.arg == "shell" for word in call.keywords), f"{name}: shell="


def test_the_sources_use_the_network_in_named_places_alone(trees: dict[str, ast.Module]) -> None:
    network = {"socket", "urllib3", "http", "httpx", "requests", "ftplib", "smtplib", "huggingface_hub", "aiohttp"}
    assert {name for name, tree in trees.items() if imported(tree) & network} <= USES_NETWORK
    for name, tree in trees.items():
        assert not any(called.endswith(("urlopen", "urlretrieve")) for called, _ in calls(tree)), name


@pytest.mark.parametrize("name", ["$(touch trace).mp4", "; touch trace;.mp4", "`touch trace`.mp4", "-i.mp4"])
def test_names_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_mask(tmp_path / "m.png")
    write_clip(tmp_path / "clip.mp4", 2).rename(tmp_path / name)
    assert run(["track", "--tracker", "copy", "-m", "m.png", "-o", "out", "--quiet", "--", name]) == 0
    assert not (tmp_path / "trace").exists()


# --- 3. a video file is read alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mp4", "ffconcat version 1.0\nfile private.mp4\n"),
        ("a.m3u8", "#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.mp4\n#EXT-X-ENDLIST\n"),
        ("a.mkv", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.mp4\n#EXT-X-ENDLIST\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
                  "a=rtpmap:96 H264/90000\n"),
        ("a%02d.avi", "x"),
    ],
)  # fmt: skip
def test_a_video_cannot_have_other_files_or_addresses_read(tmp_path: Path, name: str, text: str) -> None:
    write_clip(tmp_path / "private.mp4")
    write_clip(tmp_path / "clip.mp4").rename(tmp_path / "a01.avi")
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError):
        open_video(tmp_path / name)
    for address in ("http://127.0.0.1:9/a.mp4", "concat:private.mp4", "file:private.mp4", "subfile,,start,0:x"):
        with pytest.raises(VideoError):
            open_video(address)


# --- 4. nothing is written or removed outside of the folder of results ----------------------------------------------

ELSEWHERE = ["../secret.png", "masks/../../secret.png", "masks/..", "/etc/hostname", "masks", "masks/a/b.png", "",
             "secret.png", "masks/\0.png", 7, None, ["masks/00000.png"]]  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_line_of_results_that_names_another_place_is_refused(result: Path, name: Any) -> None:
    with_mask(result, name)
    with pytest.raises(InputError, match="line 2 of"):
        list(read_frames(result))
    with pytest.raises(InputError, match="line 2 of"):
        render(result, what=["contact"])


@pytest.mark.parametrize("state", ["running", "done"])
@pytest.mark.parametrize("file", ["frames.jsonl", "run.json"])
def test_replacing_results_removes_nothing_that_lies_elsewhere(
    result: Path, tmp_path: Path, file: str, state: str
) -> None:
    """Whatever an earlier run's files say."""
    secret = write_mask(tmp_path / "secret.png")
    plain = json.loads((result / "run.json").read_text())
    plain["state"] = state
    if file == "frames.jsonl":
        with_mask(result, "masks/../../secret.png")
    else:
        plain["rendered"] = ["../secret.png", str(secret), "masks/../../secret.png"]
    (result / "run.json").write_text(json.dumps(plain))
    ResultFolder.create(result, overwrite=True).close()
    assert secret.exists()
    assert not (result / "run.json").exists()


@pytest.mark.parametrize("name", ["masks", ".state", "frames.jsonl", "run.json"])
@pytest.mark.parametrize("way", ["create", "reopen"])
def test_no_link_leads_a_run_out_of_its_folder(result: Path, tmp_path: Path, name: str, way: str) -> None:
    other = tmp_path / "elsewhere"
    place = result / name
    if place.exists():
        place.rename(other)
    else:
        other.mkdir()
    place.symlink_to(other)
    before = snapshot(other)
    with pytest.raises(OutputError, match="is a symbolic link"):
        (ResultFolder.reopen(result) if way == "reopen" else ResultFolder.create(result, overwrite=True)).close()
    assert snapshot(other) == before


@pytest.mark.parametrize("make", [MaskSpool, TrackerStates, lambda p: EditorFolder(p.parent, (HEIGHT, WIDTH), 2)])
def test_no_link_leads_an_editor_out_of_its_folder(tmp_path: Path, make: Callable[[Path], object]) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / ".x.part").write_text("not ours")
    (tmp_path / "forward").symlink_to(other)
    with pytest.raises(OutputError, match="is a symbolic link"):
        make(tmp_path / "forward")
    assert [path.name for path in other.iterdir()] == [".x.part"]


def snapshot(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file): file.read_bytes() for file in files}


def test_temporary_files_go_through_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / f".a.png.{os.getpid()}-{threading.get_ident()}.part").symlink_to(other)
    write_whole(tmp_path / "a.png", b"new")
    assert other.read_text() == "mine"
    assert (tmp_path / "a.png").read_bytes() == b"new"
    assert not (tmp_path / "a.png").is_symlink()
    old = os.umask(0o077)
    try:
        write_whole(tmp_path / "b.png", b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "b.png").stat().st_mode) == 0o600 or sys.platform == "win32"


def test_a_table_cannot_name_results_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "a.mp4", 2)
    write_mask(tmp_path / "a.png")
    for name in ("../b", "/tmp/b", "..", ".hidden", "a/b", "a\\b"):
        (tmp_path / "t.csv").write_text(f"video,mask,name\na.mp4,a.png,{name}\n")
        assert run(["batch", str(tmp_path / "t.csv"), "-o", str(tmp_path / "out"), "-n"]) == 3, name
        assert "cannot be the name" in capsys.readouterr().err


def test_a_prompt_of_an_editor_that_names_another_file_is_refused(tmp_path: Path) -> None:
    with closing(EditorFolder(tmp_path / "e", (HEIGHT, WIDTH), 2)) as folder:
        mask = write_mask(tmp_path / "secret.png")
        document = {"version": 1, "objects": [{"id": 1, "prompts": [{"frame": 0, "mask": str(mask)}]}]}
        (tmp_path / "e" / "prompts" / "1.json").write_text(json.dumps(document))
        with pytest.raises(InputError, match="changed by another program"):
            folder.prompts.get(1)


# --- 5. sizes are bounded before room is made ------------------------------------------------------------------------


def giant_png(path: Path, side: int = 60_000) -> Path:
    """A few kB that claim gigapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 3, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"PLTE", bytes(768)) + chunk(b"IDAT", zlib.compress(bytes(1 << 22), 9))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    return path


def test_pictures_above_the_limit_are_refused_by_their_header(tmp_path: Path) -> None:
    path = giant_png(tmp_path / "giant.png")
    for read in (read_labels, read_prompt_mask):
        with pytest.raises(MaskError, match=f"more than {DEFAULT_MAX_PIXELS} pixels"):
            read(path)
    with pytest.raises(VideoError):
        open_video(path)
    document = {"version": 1, "objects": [{"id": 1, "prompts": [{"frame": 0, "mask": "giant.png"}]}]}
    (tmp_path / "p.json").write_text(json.dumps(document))
    with pytest.raises(MaskError, match="pixels"):
        read_prompts(tmp_path / "p.json", PromptTarget((HEIGHT, WIDTH)))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"version":' * 900])
def test_deep_json_is_refused_wherever_it_is_read(result: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(PromptError):
        read_prompts(tmp_path / "p.json", PromptTarget((9, 9)))
    (result / "run.json").write_text(text)
    with pytest.raises(InputError):
        read_run(result)
    (result / "frames.jsonl").write_text(text + "\n")
    with pytest.raises(InputError):
        list(read_frames(result))
    form = {"format": "vos-memory", "version": "1", "model": "m", "objects": text, "contents": text}
    save_file({"t0": torch.zeros(1)}, tmp_path / "m.safetensors", form)
    for read in (objects_of, lambda path: load_memory(path, model="m")):
        with pytest.raises(InputError):
            read(tmp_path / "m.safetensors")
    save_file({"t0": torch.zeros(1)}, tmp_path / "w.safetensors", {"format": "vos-border-refiner-1", "config": text})
    with pytest.raises(CheckpointError):
        load_refiner(tmp_path / "w.safetensors")


def test_a_field_given_twice_among_very_many_is_found_quickly(tmp_path: Path) -> None:
    """By counting each name in turn this would take hours."""
    fields = ",".join(f'"{i}":0' for i in range(200_000))
    (tmp_path / "p.json").write_text(f'{{{fields},"z":1,"z":2}}')
    with pytest.raises(PromptError, match="'z' is given twice"):
        read_prompts(tmp_path / "p.json", PromptTarget((9, 9)))


# --- 6. what others wrote is shown as text ---------------------------------------------------------------------------

OBEYED = "\x1b[2J\x1b]0;owned\x07\x9b31m\x00\x08\r\u202e"


def test_a_terminal_obeys_no_name_and_no_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = OBEYED.replace("\x00", "") + ".mp4"
    assert run(["track", str(tmp_path / name), "-b", "1,2,3,4", "-o", str(tmp_path / "out")]) == 3
    console.warn(OBEYED)
    logging.getLogger("vos.test").warning("what a library says: %s", OBEYED)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.emit(OBEYED)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not set(text) & set(OBEYED) - {"[", "2", "J", "]", "0", ";", *"owned31m"}
        assert "\\x1b[2J" in text


def test_printable_text_is_as_it_was_and_the_rest_is_codes() -> None:
    assert printable("Größe 漢字 🎬 a\\b") == "Größe 漢字 🎬 a\\b"
    assert printable("\x1b\n\u202e\U000e0001\udcff\ud800") == "\\x1b\\x0a\\u202e\\U000e0001\\xff\\ud800"
    assert printable("a\tb\nc", keep="\n\t") == "a\tb\nc"


def test_a_report_runs_no_script_of_a_name(tmp_path: Path) -> None:
    name = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    path = write_report(tmp_path / "r.html", [ReportRow(name, "failed", message=name)], title=name)
    text = path.read_text(encoding="utf-8")
    assert text.count("<script>") == 1
    assert "<img" not in text
    assert "default-src 'none'" in text


# --- the document ----------------------------------------------------------------------------------------------------


def test_every_promise_names_tests_that_exist_and_every_test_here_is_named() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text))
    for file, test in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file}::{test}"
    own = {node.name for node in ast.parse(Path(__file__).read_bytes()).body if isinstance(node, ast.FunctionDef)}
    here = {test for file, test in named if file == "tests/test_security.py"}
    assert {name for name in own if name.startswith("test_")} - here == {
        "test_every_promise_names_tests_that_exist_and_every_test_here_is_named"
    }
