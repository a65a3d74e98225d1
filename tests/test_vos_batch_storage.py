"""Results and inputs at URLs: a store in memory, a folder by URL, an S3 server on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clips import write_clip, write_mask
from results import write_results
from s3 import s3_server
from support import require

from seem_core.errors import DiskFullError, InputError, MissingExtraError, OutputError
from vos.batch import stored_video
from vos.batch.job import VideoJob, VideoOutcome, run_video
from vos.batch.remote_results import RemoteResults
from vos.batch.storage import ledger_folder, open_storage
from vos.batch.stored_video import is_stored, run_stored
from vos.batch.transfer import download, list_folder, upload
from vos.batch.urls import ConnectionLostError, name_of, open_store, remote, url_of
from vos.pipeline import TrackOptions
from vos.prompt_sources import MaskFile, ReferenceFile
from vos.run_record import read_run

COPY = TrackOptions("copy", "cpu")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as url:
        yield url


@pytest.fixture(params=["memory", "file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder of a store, as a URL."""
    try:
        import fsspec  # noqa: F401
    except ImportError:
        require(False, "fsspec is not installed; pip install 'seem-vos[cloud]'")
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    return f"file://{tmp_path}/store"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, Path]:
    return write_clip(tmp_path / "a clip.mp4"), write_mask(tmp_path / "a clip.png")


def put_clip(clip: tuple[Path, Path], root: str) -> VideoJob:
    """A job whose every file lies in the store."""
    for file in clip:
        upload(file, f"{root}/in/{file.name}")
    video, mask = (Path(f"{root}/in/{file.name}") for file in clip)
    return VideoJob("a clip", video, Path(root) / "out" / "a clip", masks=(str(mask),), options=COPY)


def names_in(url: str) -> set[str]:
    store, key = open_store(url)
    return {str(name).removeprefix(key).lstrip("/") for name in store.find(key)}


def content(url: str) -> bytes:
    store, key = open_store(url)
    return bytes(store.cat_file(key))


def test_a_path_stands_for_a_url() -> None:
    assert url_of(Path("s3://bucket/clips") / "a.mp4") == "s3://bucket/clips/a.mp4"
    assert url_of("gs://bucket/a b/c.mp4") == "gs://bucket/a b/c.mp4"
    assert url_of(Path("S3://Bucket/A")) == "s3://Bucket/A"
    assert url_of(Path("file:///tmp/x")) == url_of("file:///tmp/x") == "file:///tmp/x"


@pytest.mark.parametrize(
    "text", ["clip.mp4", "/data/s3:/clip.mp4", "C:/clips/a.mp4", "C:\\a.mp4", "a:b/c", "s3:", "", "s3:x"]
)
def test_a_path_of_this_machine_is_no_url(text: str) -> None:
    assert url_of(text) is None


@pytest.mark.parametrize("key", ["", "/", "bucket/..", "bucket/.", "a/b\0c"])
def test_a_key_cannot_name_a_file_elsewhere(key: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a file"):
        name_of(key)


def test_results_at_a_url_are_those_of_a_local_run(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    job = put_clip(clip, root)
    local = replace(job, video=clip[0], masks=(str(clip[1]),), out=scratch.parent / "local")
    assert run_video(local).outcome == "done"
    heard: list[tuple[int, int]] = []

    found = run_stored(job, scratch=scratch, on_progress=lambda done, total: heard.append((done, total)))

    assert (found.outcome, found.frames, found.message) == ("done", 12, "")
    assert not any(scratch.iterdir()), "the copies are still there"
    there = {str(file.relative_to(local.out)) for file in local.out.rglob("*") if file.is_file()}
    assert names_in(f"{root}/out/a clip") == there
    for name in there - {"run.json", "overlay.mp4"}:
        assert content(f"{root}/out/a clip/{name}") == (local.out / name).read_bytes(), name
    assert (12, 12) in heard
    assert (0, 0) in heard


def test_run_json_names_urls_and_no_scratch_folder(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    job = put_clip(clip, root)
    assert run_stored(job, scratch=scratch).outcome == "done"
    text = content(f"{root}/out/a clip/run.json").decode()
    run = json.loads(text)
    assert run["video"]["path"] == f"{root}/in/a clip.mp4"
    assert [item["path"] for item in run["inputs"]] == [f"{root}/in/a clip.mp4", f"{root}/in/a clip.png"]
    assert str(scratch) not in text


def test_a_finished_run_is_known_and_left_alone(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    job = put_clip(clip, root)
    storage = open_storage(Path(root) / "out")
    assert storage.finished("a clip") is None
    assert run_stored(job, scratch=scratch).outcome == "done"
    assert storage.finished("a clip") == 12
    before = content(f"{root}/out/a clip/run.json")

    again = run_stored(job, scratch=scratch)

    assert (again.outcome, again.cause) == ("failed", "input")
    assert f"{root}/out/a clip holds the results of a finished run" in again.message
    assert content(f"{root}/out/a clip/run.json") == before


def test_overwriting_leaves_nothing_of_the_earlier_run(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    job = put_clip(clip, root)
    assert run_stored(job, scratch=scratch).outcome == "done"
    upload(clip[1], f"{root}/out/a clip/notes.txt")
    upload(clip[1], f"{root}/out/a clip/masks/mine.png")
    shorter = replace(job, options=replace(COPY, end=3), overwrite=True, save=frozenset({"masks"}))

    assert run_stored(shorter, scratch=scratch).frames == 3

    masks = {f"masks/0000{i}.png" for i in range(3)}
    assert names_in(f"{root}/out/a clip") == {*masks, "frames.jsonl", "run.json", "notes.txt", "masks/mine.png"}


def test_results_that_no_run_made_are_not_replaced(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    job = put_clip(clip, root)
    upload(clip[1], f"{root}/out/a clip/masks/00000.png")
    found = run_stored(job, scratch=scratch)
    assert (found.outcome, found.cause) == ("failed", "input")
    assert "masks/00000.png is there already and no run of vos made it" in found.message


def test_run_json_says_done_last(
    clip: tuple[Path, Path], root: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies while it uploads, after any number of files, leaves no finished run behind."""
    job = put_clip(clip, root)
    storage = open_storage(Path(root) / "out")
    store, _ = open_store(root)
    put, states = store.put, []

    def watched(files: list[str], keys: list[str], **others: object) -> None:
        for file, key in zip(files, keys, strict=True):
            put([file], [key], **others)
            run = storage.run("a clip")
            states.append((Path(key).name, None if run is None else run.state))

    monkeypatch.setattr(store, "put", watched)
    assert run_stored(job, scratch=scratch).outcome == "done"
    assert states[0] == ("run.json", "running")
    assert states[-2:] == [("frames.jsonl", "running"), ("run.json", "done")]
    assert {state for _, state in states[:-1]} == {"running"}
    assert len(states) == 12 + 5


def test_an_upload_that_broke_off_is_done_again(
    clip: tuple[Path, Path], root: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = put_clip(clip, root)
    store, _ = open_store(root)
    put = store.put

    def broken(files: list[str], keys: list[str], **others: object) -> None:
        if any(key.endswith("00007.png") for key in keys):
            raise TimeoutError("the store is silent")
        put(files, keys, **others)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", broken)
        found = run_stored(job, scratch=scratch)
    assert (found.outcome, found.cause, found.worth_another_try) == ("failed", "crash", True)
    assert "could not be reached" in found.message
    assert not any(scratch.iterdir())
    assert open_storage(Path(root) / "out").finished("a clip") is None

    assert run_stored(job, scratch=scratch).outcome == "done"


def test_what_is_missing_is_said_with_its_url(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    job = put_clip(clip, root)
    found = run_stored(replace(job, video=Path(root) / "in" / "none.mp4"), scratch=scratch)
    assert (found.outcome, found.cause, found.worth_another_try) == ("failed", "input", False)
    assert found.message.startswith(f"{root}/in/none.mp4 is not there; check the URL")
    assert names_in(f"{root}/in") == {"a clip.mp4", "a clip.png"}


def test_messages_name_urls_and_no_copies(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    clip[0].write_bytes(b"no video")
    found = run_stored(put_clip(clip, root), scratch=scratch)
    assert (found.outcome, found.cause) == ("failed", "input")
    assert f"{root}/in/a clip.mp4" in found.message
    assert str(scratch) not in found.message


def test_a_folder_of_images_and_other_prompts_come_along(
    clip: tuple[Path, Path], root: str, scratch: Path, tmp_path: Path
) -> None:
    from clips import picture
    from PIL import Image

    for i in range(3):
        Image.fromarray(picture(i)).save(tmp_path / f"f{i}.png")
        upload(tmp_path / f"f{i}.png", f"{root}/frames/f{i}.png")
    upload(tmp_path / "f0.png", f"{root}/frames/deeper/no.png")
    upload(clip[1], f"{root}/frames/notes.txt")
    upload(clip[1], f"{root}/first.png")
    prompts = (ReferenceFile(Path(f"{root}/frames/f1.png"), Path(f"{root}/first.png"), object_id=2),)
    job = VideoJob(
        "frames", Path(f"{root}/frames"), tmp_path / "out", prompts, (MaskFile(Path(f"{root}/first.png"), object_id=1),)
    )  # type: ignore[arg-type]
    assert is_stored(job)
    found = run_stored(replace(job, options=TrackOptions("propagate", "cpu")), scratch=scratch)
    assert (found.outcome, found.frames) == ("done", 3), found.message
    assert read_run(tmp_path / "out").ids == (1, 2)


def test_a_saved_memory_is_brought_to_its_url(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    job = put_clip(clip, root)
    saving = replace(job, options=TrackOptions("propagate", "cpu", save_memory=f"{root}/memory/a.safetensors"))
    assert run_stored(saving, scratch=scratch).outcome == "done"
    using = replace(
        job,
        name="b",
        out=Path(root) / "out" / "b",
        masks=(),
        options=TrackOptions("propagate", "cpu", memory=f"{root}/memory/a.safetensors"),
    )
    found = run_stored(using, scratch=scratch)
    assert (found.outcome, found.frames) == ("done", 12), found.message


def test_a_remote_folder_is_listed(clip: tuple[Path, Path], root: str) -> None:
    put_clip(clip, root)
    assert [url_of(path) for path in list_folder(f"{root}/in")] == [f"{root}/in/a clip.mp4", f"{root}/in/a clip.png"]


def test_a_local_job_is_run_where_it_is(clip: tuple[Path, Path], tmp_path: Path, scratch: Path) -> None:
    job = VideoJob("x", clip[0], tmp_path / "out", masks=(str(clip[1]),), options=COPY)
    assert not is_stored(job)
    assert run_stored(job, scratch=scratch).outcome == "done"
    assert not scratch.exists()
    assert open_storage(tmp_path).finished("out") == 12


def test_the_ledger_of_a_url_lies_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOS_CACHE", str(tmp_path))
    assert ledger_folder(tmp_path / "out") == tmp_path / "out"
    mine = ledger_folder(Path("s3://videos/out"))
    assert mine.parent == tmp_path / "batches"
    assert ledger_folder("s3://videos/out/") == mine != ledger_folder("s3://videos/out2")


@pytest.mark.parametrize(
    ("raised", "write", "error"),
    [
        (FileNotFoundError("x"), False, InputError),
        (PermissionError("x"), True, OutputError),
        (ValueError("bucket name"), False, InputError),
        (OSError(28, "No space left on device"), False, DiskFullError),
        (OSError(5, "Input/output error"), True, ConnectionLostError),
        (TimeoutError(), False, ConnectionLostError),
        (RuntimeError("server said 500"), True, ConnectionLostError),
    ],
)
def test_foreign_errors_are_translated(raised: Exception, write: bool, error: type[Exception]) -> None:
    with pytest.raises(error, match="s3://b/x"), remote("s3://b/x", write=write):
        raise raised


def test_a_url_that_nothing_here_can_open() -> None:
    with pytest.raises(InputError, match="nonsense://a/b cannot be opened"):
        open_storage("nonsense://a/b")
    with pytest.raises(MissingExtraError, match="needs a package that is not installed"):
        open_storage("oci://a@b/c")


def test_a_bug_of_ours_is_an_outcome(clip: tuple[Path, Path], scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = put_clip(clip, f"memory://{scratch.parent.name}")

    def broken(*_: object, **__: object) -> VideoOutcome:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(stored_video, "run_video", broken)
    found = run_stored(job, scratch=scratch)
    assert (found.outcome, found.cause, found.message) == ("failed", "bug", "ZeroDivisionError: oops")
    assert not any(scratch.iterdir())


def test_another_machine_goes_on_where_one_was_lost(
    clip: tuple[Path, Path], root: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(clip[0], 60)
    job = replace(
        put_clip(clip, root), options=TrackOptions("propagate", "cpu", threads=1), save=frozenset({"masks"}),
        resume=True, checkpoint_seconds=0.001,
    )  # fmt: skip
    quiet = replace(job, video=clip[0], masks=(str(clip[1]),), out=scratch.parent / "quiet", resume=False)
    assert run_video(quiet).outcome == "done"
    monkeypatch.setattr(stored_video, "KEEP_SECONDS", 0.01)
    watched = RemoteResults(f"{root}/out/a clip")
    states = f"{root}/out/a clip/.state"

    def lost(done: int, total: int) -> None:
        if done == 40:  # by now, or soon, a state of some frame before is there
            deadline = time.monotonic() + 120
            while not any(name.endswith(".safetensors") for name in names_in(states)):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(RemoteResults, "finish", lambda *_: None)  # a machine that is lost does not get to this
        with pytest.raises(SystemExit):
            run_stored(job, scratch=scratch, on_progress=lost)
    assert not any(scratch.iterdir())
    left = watched.run()
    assert left is not None
    assert left.state == "running"

    heard: list[int] = []
    found = run_stored(job, scratch=scratch, on_progress=lambda done, total: heard.append(done))

    assert (found.outcome, found.frames, found.warnings) == ("done", 60, ())
    assert min(done for done in heard if done) > 1
    assert names_in(f"{root}/out/a clip") == {
        str(p.relative_to(quiet.out)) for p in quiet.out.rglob("*.*") if p.is_file()
    }
    for name in names_in(f"{root}/out/a clip") - {"run.json"}:
        assert content(f"{root}/out/a clip/{name}") == (quiet.out / name).read_bytes(), name
    again = run_stored(job, scratch=scratch)
    assert (again.outcome, again.frames) == ("done", 60), "with resume, a finished run is left as it is"


def test_pictures_are_made_later(clip: tuple[Path, Path], root: str, scratch: Path) -> None:
    job = replace(put_clip(clip, root), save=frozenset({"masks"}))
    assert run_stored(job, scratch=scratch).outcome == "done"
    found = run_stored(replace(job, save=frozenset({"masks", "contact"}), resume=True), scratch=scratch)
    assert found.outcome == "done", found
    assert content(f"{root}/out/a clip/contact.png")
    assert open_storage(f"{root}/out").run("a clip").rendered == ("contact.png",)  # type: ignore[union-attr]


def test_a_name_that_is_no_text_costs_its_video_where_a_store_refuses_it(
    clip: tuple[Path, Path], root: str, scratch: Path
) -> None:
    assert open_storage(f"{root}/out").run("caf\udce9") is None
    job = replace(put_clip(clip, root), out=Path(f"{root}/out/caf\udce9"))
    found = run_stored(job, scratch=scratch)
    refused = root.startswith("s3:")
    assert (found.outcome, found.cause) == (("failed", "input") if refused else ("done", None)), found


def test_keys_lead_nowhere_but_into_the_folder(tmp_path: Path, root: str) -> None:
    """frames.jsonl at a URL is what somebody else may have written."""
    from vos.video import open_video

    clip = open_video(write_clip(tmp_path / "c.mp4", 3))
    write_results(tmp_path / "r", clip, ids=(1,), finish=False)
    clip.close()
    for name in ("run.json", "frames.jsonl"):
        upload(tmp_path / "r" / name, f"{root}/r/{name}")
    upload(tmp_path / "r" / "run.json", f"{root}/r/.state/00001-x.safetensors")
    lines = (tmp_path / "r" / "frames.jsonl").read_text().replace("masks/00001.png", "../../evil.png")
    (tmp_path / "r" / "frames.jsonl").write_text(lines)
    upload(tmp_path / "r" / "frames.jsonl", f"{root}/r/frames.jsonl")
    (tmp_path / "here").mkdir()
    assert not RemoteResults(f"{root}/r").fetch(tmp_path / "here")
    assert not (tmp_path.parent / "evil.png").exists()


def test_downloads_keep_their_names(clip: tuple[Path, Path], root: str, tmp_path: Path) -> None:
    upload(clip[0], f"{root}/in/a clip.mp4")
    found = download(f"{root}/in/a clip.mp4", tmp_path / "new")
    assert found == tmp_path / "new" / "a clip.mp4"
    assert found.read_bytes() == clip[0].read_bytes()
