"""``vos track`` and ``vos doctor`` as a user types them: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clips import square, write_clip, write_mask

import vos
from cli.main import run
from vos.output import read_run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made current, with clip.mp4 (12 frames) and clip.png."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4")
    write_mask(tmp_path / "clip.png")
    return tmp_path


COPY = ("--tracker", "copy", "--save", "masks")


def test_a_mask_gives_a_folder_and_its_path_on_stdout(clip: Path, capsys: Captured) -> None:
    assert run(["track", "clip.mp4", "-m", "clip.png", "-o", "out", *COPY]) == 0
    said = capsys.readouterr()
    assert said.out == f"{Path('out') / 'masks'}\n"
    assert "tracking: 12/12 frames" in said.err
    assert len(list((clip / "out" / "masks").glob("*.png"))) == 12
    assert read_run(clip / "out").state == "done"


def test_without_o_the_folder_is_called_after_the_video(clip: Path) -> None:
    assert run(["track", "clip.mp4", "-b", "0,16,16,32", "--quiet", *COPY]) == 0
    assert (clip / "clip_vos" / "masks" / "00011.png").exists()


def test_quiet_says_nothing_but_results(clip: Path, capsys: Captured) -> None:
    assert run(["track", "clip.mp4", "-m", "clip.png", "-o", "out", "--quiet", *COPY]) == 0
    assert capsys.readouterr().err == ""


def test_json_is_one_object(clip: Path, capsys: Captured) -> None:
    options = ["--start", "2", "--end", "11", "--stride", "4", "--json", "-q", *COPY]
    assert run(["track", "clip.mp4", "-m", "clip.png@6", "-p", "3,20@2#5", "-o", "out", *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["state"], result["frames"], result["out"]) == ("done", 3, "out")
    assert [item["id"] for item in result["objects"]] == [1, 5]
    assert result["made"] == [str(Path("out") / "masks")]
    assert sorted(path.name for path in (clip / "out" / "masks").iterdir()) == ["00002.png", "00006.png", "00010.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.mp4", "-p", "1,1"], 3, "missing.mp4"),
        (["clip.png/x.mp4", "-p", "1,1"], 3, "clip.png"),
        (["text.mp4", "-p", "1,1"], 3, "text.mp4"),
        (["clip.mp4"], 3, "nothing says what to follow; give a mask, a point or a box"),
        (["clip.mp4", "-p", "1;1"], 3, "'1;1' is not a point"),
        (["clip.mp4", "-p", "100,1"], 3, "outside the image of 64x48"),
        (["clip.mp4", "-b", "1,1,9,9@12"], 3, "frame 12 of a prompt is past the end"),
        (["clip.mp4", "-m", "none.png"], 3, "none.png"),
        (["clip.mp4", "-m", "clip.mp4"], 3, "clip.mp4"),
        (["clip.mp4", "-m", "."], 3, "mask . is a folder; name the file of one frame in it"),
        (["clip.mp4", "-p", "1,1", "--start", "50"], 3, "start 50 is past the end"),
        (["clip.mp4", "-p", "1,1", "--start", "5", "--end", "5"], 3, "start 5 with end 5 leaves no frame"),
        (["clip.mp4", "-p", "1,1", "--tracker", "magic"], 3, "no tracker 'magic'"),
        (["clip.mp4", "-p", "1,1", "--save", "gold"], 2, "--save takes a list of masks, overlay, contact, not gold"),
        (["clip.mp4", "-p", "1,1", "-o", "clip.png"], 3, "cannot write to clip.png: clip.png is a file"),
        (["clip.mp4", "-p", "1,1", "-o", "clip.png/out"], 3, "cannot write to clip.png/out: clip.png is a file"),
        (["clip.mp4", "-p", "1,1", "-o", ""], 2, "an argument is empty"),
        (["", "-p", "1,1"], 2, "an argument is empty"),
        (
            ["http://example.org/clip.mp4", "-p", "1,1"],
            3,
            "it is an address, not a file; save the video to a file first",
        ),
        (["x" * 300, "-p", "1,1"], 3, "cannot read xxx"),
        (["clip.mp4", "-m", "x" * 300], 3, "cannot be read as a picture (File name too long)"),
        (["clip.mp4", "-p", "1,1", "-o", "x" * 300], 3, "(File name too long)"),
        (["loop", "-p", "1,1"], 3, "cannot read loop"),
        (["clip.mp4", "-m", "loop"], 3, "mask loop cannot be read"),
        (["clip.mp4", "-p", "1,1", "-o", "loop"], 3, "cannot write"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    clip: Path, capsys: Captured, arguments: list[str], code: int, words: str
) -> None:
    (clip / "text.mp4").write_text("not a video\n")
    (clip / "loop").symlink_to("loop")
    before = {path.name for path in clip.iterdir()}
    assert run(["track", *arguments, *([] if "--tracker" in arguments else ["--tracker", "copy"])]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("vos: error: ")
    assert said.err.count("\n") == 1
    assert words in said.err
    assert {path.name for path in clip.iterdir()} == before


def test_the_default_tracker_follows_and_everything_is_made(clip: Path, capsys: Captured) -> None:
    assert run(["track", "clip.mp4", "-m", "clip.png", "-o", "out", "-q"]) == 0
    made = [clip / line for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in made] == ["masks", "overlay.mp4", "contact.png"]
    assert all(path.exists() for path in made)
    found, truth = vos.read_labels(clip / "out" / "masks" / "00011.png") == 1, square(11)
    assert (found & truth).sum() / (found | truth).sum() > 0.7
    with vos.open_video(clip / "out" / "overlay.mp4") as overlay:
        assert len(overlay) == 12
    assert read_run(clip / "out").rendered == ("contact.png", "overlay.mp4")


def test_render_makes_the_pictures_again(clip: Path, capsys: Captured) -> None:
    assert run(["track", "clip.mp4", "-m", "clip.png", "-o", "out", "-q", *COPY]) == 0
    assert not (clip / "out" / "overlay.mp4").exists()
    capsys.readouterr()
    assert run(["render", "out", "--alpha", "0.2"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(Path("out") / "overlay.mp4"), str(Path("out") / "contact.png")]
    assert "rendering: 12/12 frames" in said.err
    (clip / "clip.mp4").rename("moved.mp4")
    assert run(["render", "out", "-q", "--save", "contact"]) == 3
    assert "clip.mp4 is not there any more; say with --video where it is now" in capsys.readouterr().err
    assert run(["render", "out", "-q", "--video", "nowhere.mp4"]) == 3
    assert capsys.readouterr().err == "vos: error: cannot read nowhere.mp4: there is no such file\n"
    assert run(["render", "out", "-q", "--save", "contact", "--video", "moved.mp4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == [str(Path("out") / "contact.png")]
    assert run(["render", "out", "--save", "masks"]) == 2
    assert run(["render", "nowhere", "-q"]) == 3


def test_results_are_found_from_another_folder(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["track", "clip.mp4", "-m", "clip.png", "-o", "out", "-q", *COPY]) == 0
    assert read_run(clip / "out").video.path == clip / "clip.mp4"
    monkeypatch.chdir(clip / "out")
    assert run(["render", ".", "-q", "--save", "contact"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["clip.mp4", "-m", "out/masks/00004.png@4", "-o", "out", "--overwrite"],
        ["out/overlay.mp4", "-m", "clip.png", "-o", "out", "--overwrite"],
        ["out/masks", "-m", "clip.png", "-o", "out/../out", "--overwrite"],
        ["frames", "-m", "clip.png", "-o", "frames"],
    ],
)
def test_results_never_replace_what_they_come_from(clip: Path, capsys: Captured, arguments: list[str]) -> None:
    assert run(["track", "clip.mp4", "-m", "clip.png", "-o", "out", "-q", "--tracker", "copy"]) == 0
    shutil.copytree(clip / "out" / "masks", clip / "frames")
    before = {path: path.read_bytes() for path in clip.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(["track", *arguments, "-q", *COPY]) == 3
    assert "is read by this run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in clip.rglob("*") if path.is_file()} == before


def test_a_tilde_that_the_shell_left_is_home(clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    (clip / "home ü").mkdir()
    monkeypatch.setenv("HOME", str(clip / "home ü"))
    (clip / "clip.mp4").rename(clip / "home ü" / "my clip.mp4")
    assert run(["track", "~/my clip.mp4", "--mask=clip.png", "--out=~/new/out", "-q", *COPY]) == 0
    assert capsys.readouterr().out == f"{clip / 'home ü' / 'new' / 'out' / 'masks'}\n"


def test_a_finished_result_is_refused_unless_overwritten(clip: Path, capsys: Captured) -> None:
    command = ["track", "clip.mp4", "-m", "clip.png", "-o", "out", "-q", *COPY]
    assert run(command) == 0
    assert run(command) == 3
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, "--overwrite"]) == 0


def test_streams_that_nobody_reads_are_no_error(clip: Path) -> None:
    read, write = os.pipe()
    os.close(read)  # writing now is a broken pipe
    code = "import sys, cli.main; sys.exit(cli.main.run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "track", "clip.mp4", "-m", "clip.png", "-q", "-o"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    try:
        done = subprocess.run([*command, "out", *COPY], stdout=write, stderr=subprocess.PIPE, env=env, timeout=120)
        loud = [*command[:-2], "-o", "loud", *COPY]  # tells its progress
        deaf = subprocess.run(loud, stdout=subprocess.PIPE, stderr=write, env=env, timeout=120)
        helped = subprocess.run([*command[:4], "--help"], stdout=write, stderr=subprocess.PIPE, env=env, timeout=120)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (deaf.returncode, deaf.stdout) == (0, b"loud/masks\n")
    assert read_run(clip / "loud").frames_done == 12
    assert (helped.returncode, helped.stderr) == (0, b"")
    closed = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command, "closed", *COPY],
        stderr=subprocess.PIPE,
        env=env,
        timeout=120,
    )
    assert (closed.returncode, closed.stderr) == (0, b"")
    assert read_run(clip / "closed").state == "done"


AWKWARD = {  # what the file has for us: frames in the index, frames that cannot be decoded
    "01_dog.mp4": (289, 0),
    "AudioVideoInterleave.avi": (0, 0),  # a stub: its video stream holds no frame
    "av1_video.mkv": (125, 0),
    "bikes.mp4": (250, 0),
    "corrupted.mp4": (50, 1),
    "h264_10bits.mp4": (30, 0),
    "newtonscradle.gif": (36, 0),
    "no_duration.webm": (74, 0),
    "realshort.mp4": (36, 0),
    "video_90.mov": (3, 0),
    "video_with_failing_audio.mp4": (280, 0),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_files_end_as_they_should(data_root: Path, tmp_path: Path, capsys: Captured, name: str) -> None:
    frames, gaps = AWKWARD[name]
    out = tmp_path / "out"
    command = [
        "track",
        str(data_root / "videos" / name),
        "-b",
        "10,10,60,60",
        "-o",
        str(out),
        "--end",
        "60",
        "-q",
        *COPY,
    ]
    code = run(command)
    said = capsys.readouterr()
    if frames == 0:
        assert (code, said.out, said.err.count("\n")) == (3, "", 1)
        assert not out.exists()
        return
    assert code == 0
    record = read_run(out)
    assert record.video.frames == frames
    assert len(record.gaps) == gaps
    assert said.err.count("vos: warning: ") == len(record.warnings)
    assert bool(record.warnings) == bool(gaps)
    masks = list((out / "masks").glob("*.png"))
    assert len(masks) == record.frames_done == min(60, record.video.frames) - gaps
    assert vos.read_labels(masks[0]).shape == (record.video.height, record.video.width)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_a_file_name_that_is_no_text_is_printed_as_it_is(clip: Path) -> None:
    name = os.fsdecode(b"caf\xe9 1\n.mp4")
    (clip / "clip.mp4").rename(name)
    code = "import sys, cli.main; sys.exit(cli.main.run(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", code, "track", name, "-m", "clip.png", "-q", *COPY]
    done = subprocess.run(command, capture_output=True, env=env, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"caf\xe9 1\n_vos/masks\n"
    again = subprocess.run(command, capture_output=True, env=env, timeout=120)
    assert again.returncode == 3
    assert b"caf\xe9" in again.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a full disk")
def test_a_full_disk_behind_stdout_is_5(clip: Path) -> None:
    code = "import sys, cli.main; sys.exit(cli.main.run(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", code, "track", "clip.mp4", "-m", "clip.png", "-q", "-o", "out", *COPY]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=env, timeout=120, text=True)
    assert done.returncode == 5
    assert done.stderr.startswith("vos: error: no room left where standard output goes")
    assert done.stderr.count("\n") == 1


# ---- doctor


def test_doctor_in_words_and_as_json(capsys: Captured) -> None:
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("Versions", "Devices", "libx264", "features", "OMP_WAIT_POLICY"):
        assert word in said
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] is True
    assert found["encoders"]["libx264"] is True
    assert found["devices"]["cpu"] == "available"
    assert all(item["remedy"].startswith("pip install") for item in found["missing"])
