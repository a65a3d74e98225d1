"""Reads damaged files and says of each how it went; the process that `tests/faults/test_fuzz.py` watches.

    python fuzz_child.py CASES FOLDER      CASES as video-3,mask-17; FOLDER holds what `write_seeds` wrote

For each case: a line ``begin CASE``, then ``good CASE``, ``refused CASE SENTENCE`` or ``fault CASE TRACEBACK`` (as JSON
text). By hand, with one case, it shows a fault again; the damaged file stays in FOLDER.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from clips import HEIGHT, WIDTH, picture, square, write_clip
from mutations import damaged, damaged_json, damaged_png, damaged_safetensors
from PIL import Image
from safetensors.torch import save_file

from seem_core.coco_masks import encode_rle
from seem_core.errors import VosError
from seem_core.reader_weights import load_reader
from seem_core.refiner_weights import load_refiner, shipped_weights
from seem_core.segmenter_types import ObjectTokens
from trackers.base import ObjectMasks
from trackers.memory_bank import Entry, MemoryBank
from trackers.memory_file import objects_of
from vos.editor_folder import read_state
from vos.frames import VideoInfo
from vos.label_files import read_labels, write_labels
from vos.mask_spool import MaskSpool
from vos.masks import MaskFormat, read_prompt_mask
from vos.prompt_file import PromptTarget, frame_number, read_prompts
from vos.run_record import FRAMES_FILE, RUN_FILE, RunRecord, read_frames, read_run
from vos.tracker_states import SavedState, TrackerStates
from vos.video import open_video

MODEL = "reader of this test"
SIZE = (HEIGHT, WIDTH)
FRAMES_READ = 6
ROOM = 3 << 30  # bytes of address space beside what the imports took
LONGEST_SENTENCE = 2000


@dataclass(frozen=True)
class Kind:
    """Files of one kind: what ``seed`` files are, how one is damaged, and how the damaged one is read."""

    damage: Callable[[Path, Random], bytes]
    read: Callable[[Path], None]


# --- good files ------------------------------------------------------------------------------------------------------


def write_seeds(folder: Path) -> None:
    """Good files of every kind, in a folder for each."""
    for name in KINDS:
        (folder / name).mkdir(parents=True)
    _video_seeds(folder / "video")
    _mask_seeds(folder / "mask")
    _prompt_seeds(folder / "prompts")
    _memory_seeds(folder / "memory")
    _weight_seeds(folder / "weights")
    _result_seeds(folder / "results")


def _video_seeds(folder: Path) -> None:
    write_clip(folder / "h264.mp4")
    for name, codec, form in (
        ("mpeg4.avi", "mpeg4", "yuv420p"), ("png.mov", "png", "rgb24"), ("mjpeg.mkv", "mjpeg", "yuvj420p"),
        ("gif.gif", "gif", "rgb8"), ("vp9.webm", "libvpx-vp9", "yuv420p"), ("mpeg2.ts", "mpeg2video", "yuv420p"),
    ):  # fmt: skip
        with av.open(str(folder / name), "w") as out:
            try:
                stream = cast(VideoStream, out.add_stream(codec, rate=25))
            except ValueError:  # this build of FFmpeg has no such encoder
                continue
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, form
            for i in range(8):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
            out.mux(stream.encode())


def _mask_seeds(folder: Path) -> None:
    labels = square(0).astype(np.uint8) + 2 * square(20).astype(np.uint8)
    write_labels(folder / "palette.png", labels)
    write_labels(folder / "plain.png", labels, level=0)
    write_labels(folder / "wide.png", labels.astype(np.uint16) * 300)
    for name, mode in (("grey.png", "L"), ("rgb.png", "RGB"), ("rgba.png", "RGBA"), ("bits.png", "1"), ("a.bmp", "L")):
        Image.fromarray(np.uint8(255) * (labels > 0)).convert(mode).save(folder / name)
    np.save(folder / "ids.npy", labels)


def _prompt_seeds(folder: Path) -> None:
    write_labels(folder / "cat.png", square(0).astype(np.uint8))
    mask = square(0)
    runs = encode_rle(mask)
    png = base64.b64encode((folder / "cat.png").read_bytes()).decode()
    ours = {
        "version": 1,
        "video": "clip.mp4",
        "objects": [
            {"id": 1, "name": "cat", "prompts": [
                {"frame": 0, "mask": "cat.png"}, {"frame": 4, "point": [14, 17], "positive": False},
                {"seconds": 9.5, "forget": True}, {"mask": {"path": "cat.png", "value": 1}}]},
            {"id": 300, "prompts": [
                {"box": [1, 2, 30, 40]}, {"scribble": [[1, 2], [3, 4]], "width": 2}, {"text": "a dog"},
                {"polygon": [[1, 1], [30, 1], [30, 30]]}, {"mask": {"size": [HEIGHT, WIDTH], "counts": runs}},
                {"reference": {"image": {"png": png}, "mask": "cat.png"}}]},
        ],
    }  # fmt: skip
    davis = {"sequence": "x", "scribbles": [[{"path": [[0.1, 0.2], [0.5, 0.6]], "object_id": 1}], [], []]}
    labelme = {
        "version": "5.0", "imagePath": "00001.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None,
        "shapes": [{"label": "cat", "shape_type": "polygon", "points": [[1, 1], [30, 1], [30, 30]]},
                   {"label": "dog", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}],
    }  # fmt: skip
    coco = {
        "images": [{"id": 7, "file_name": "00001.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 8, 9], "iscrowd": 0, "area": 9,
             "segmentation": [[1, 1, 30, 1, 30, 30]]},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [1, 2, 8, 9], "iscrowd": 1, "area": 9,
             "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}},
        ],
    }  # fmt: skip
    for name, value in (("ours", ours), ("davis", davis), ("labelme", labelme), ("coco", coco)):
        (folder / f"{name}.json").write_text(json.dumps(value, default=_plain), encoding="utf-8")


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.tolist()


def _memory_seeds(folder: Path) -> None:
    bank = MemoryBank(2)
    bank.space = (torch.rand(3),)
    for frame in range(3):
        values = {1: torch.rand(12, 4).half(), 300: torch.rand(12, 4).half()}
        bank.write(Entry(frame, (torch.rand(12, 4), torch.rand(12)), values, pinned=frame == 0, grid=(3, 4)))
    bank.write(Entry(4, (), {}, {1: ObjectTokens(1, (torch.ones(5, 4),), None)}))
    bank.save(folder / "memory.safetensors", model=MODEL)
    states = TrackerStates(folder / "states")
    state = {"bank": bank.state_dict(), "array": np.ones(3), "table": {1: (0.5, None)}}
    states.save(SavedState(3, (1, 300), state), "a", lambda frame, text: True)
    next((folder / "states").iterdir()).rename(folder / "state.safetensors")
    (folder / "states").rmdir()


def _weight_seeds(folder: Path) -> None:
    shutil.copy(shipped_weights(), folder / "refiner.safetensors")
    tensors = {"weight": torch.ones(4, 4)}
    save_file(tensors, folder / "reader.safetensors", {"format": "vos-reader-1", "config": '{"width": 4}'})


def _result_seeds(folder: Path) -> None:
    info = VideoInfo(Path("/videos/clip.mp4"), HEIGHT, WIDTH, 24, 12, 12, 0, False, "h264")  # type: ignore[arg-type]
    run = RunRecord(info, (0, 12, 1), (1, 2), options={"tracker": "lite", "prompts": {"version": 1, "objects": []}})
    (folder / "run.json").write_bytes(run.text())
    line = {"frame": 0, "seconds": 0.0, "mask": "masks/00000.png",
            "objects": [{"id": 1, "score": 0.5, "area": 256, "box": [0, 16, 16, 32], "lost": False}]}  # fmt: skip
    (folder / "frames.json").write_text(json.dumps([line, {**line, "frame": 1, "mask": "masks/00001.png"}]))
    editor = {"format": 1, "video": "/videos/clip.mp4", "size": [12, HEIGHT, WIDTH, 9], "options": {"tracker": "lite"},
              "history": {"numbers": [1], "done": [["add", 1]], "undone": [], "highest": 1}, "gaps": []}  # fmt: skip
    (folder / "editor.json").write_text(json.dumps(editor))
    spool = MaskSpool(folder / "spool")
    spool.put(0, ObjectMasks((1,), square(0).astype(np.uint8), np.ones(1, np.float32), np.zeros(1, np.bool_)), "a")
    (folder / "spool" / "00000.png").rename(folder / "spool.png")
    (folder / "spool").rmdir()


# --- damage ----------------------------------------------------------------------------------------------------------


def _damage_bytes(seed: Path, random: Random) -> bytes:
    return damaged(seed.read_bytes(), random)


def _damage_picture(seed: Path, random: Random) -> bytes:
    if seed.suffix == ".png" and random.random() < 0.6:
        return damaged_png(seed.read_bytes(), random)
    return damaged(seed.read_bytes(), random)


def _damage_json(seed: Path, random: Random) -> bytes:
    if seed.suffix == ".png":
        return _damage_picture(seed, random)
    if random.random() < 0.25:
        return damaged(seed.read_bytes(), random)
    value = json.loads(seed.read_bytes())
    if seed.name == "frames.json":
        return b"".join(damaged_json(line, random).encode() + b"\n" for line in value)
    return damaged_json(value, random).encode("utf-8", "replace")


def _damage_tensors(seed: Path, random: Random) -> bytes:
    if random.random() < 0.3:
        return damaged(seed.read_bytes(), random)
    return damaged_safetensors(seed.read_bytes(), random)


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_video(path: Path) -> None:
    with closing(open_video(path)) as video:
        for frame in video.frames(0, FRAMES_READ):
            assert frame.image.shape[:2] == (video.info.height, video.info.width)
        video.seconds(len(video) - 1)
        if len(video) - 1 not in video.gaps:
            video[len(video) - 1]


def _read_mask(path: Path) -> None:
    refusals: list[VosError] = []
    formats: tuple[MaskFormat, ...] = ("auto", "ids", "binary", "rgb")
    ways: list[Callable[[], object]] = [partial(read_labels, path)]
    ways += [partial(read_prompt_mask, path, size=SIZE, mask_format=form) for form in formats]
    for read in ways:
        try:
            read()
        except VosError as error:
            _check_sentence(error)
            refusals.append(error)
    if len(refusals) == 5:
        raise refusals[0]


def _read_prompts(path: Path) -> None:
    if path.suffix == ".png":
        _read_mask(path)
    else:
        read_prompts(path, PromptTarget(SIZE, frame_number))


def _read_memory(path: Path) -> None:
    if path.stem.startswith("state"):
        path = path.rename(path.parent / "states" / "00003-a.safetensors")
        TrackerStates(path.parent).nearest(4, lambda frame: "a", backward=False)
        return
    try:
        objects_of(path)
    except VosError as error:
        _check_sentence(error)
    MemoryBank.load(path, model=MODEL)


def _read_weights(path: Path) -> None:
    (load_refiner if path.stem.startswith("refiner") else load_reader)(path)


def _read_results(path: Path) -> None:
    if path.suffix == ".png":
        path = path.rename(path.parent / "spool" / "00000.png")
        spool = MaskSpool(path.parent)
        spool.summary(0)
        spool.get(0)
    elif path.stem.startswith("editor"):
        path.rename(path.parent / "editor.json")
        read_state(path.parent)
    elif path.stem.startswith("run"):
        path.rename(path.parent / RUN_FILE)
        run = read_run(path.parent)
        run.text()
    else:
        path.rename(path.parent / FRAMES_FILE)
        for record in read_frames(path.parent):
            assert os.path.normpath(record.mask).startswith("masks" + os.sep)


KINDS = {
    "video": Kind(_damage_bytes, _read_video),
    "mask": Kind(_damage_picture, _read_mask),
    "prompts": Kind(_damage_json, _read_prompts),
    "memory": Kind(_damage_tensors, _read_memory),
    "weights": Kind(_damage_tensors, _read_weights),
    "results": Kind(_damage_json, _read_results),
}


def _check_sentence(error: VosError) -> None:
    text = str(error)
    assert text, "no sentence"
    assert "\n" not in text, f"more than a sentence: {text!r}"
    assert len(text) <= LONGEST_SENTENCE, f"{len(text)} characters: {text[:300]!r}"


def _say(word: str, case: str, text: str = "") -> None:
    print(word, case, json.dumps(text), flush=True)


def run(case: str, folder: Path) -> None:
    """Damage a good file, chosen by the number in ``case``, read it and say how it went."""
    kind, number = case.split("-")
    random = Random(case)
    seeds = sorted(path for path in (folder / kind).iterdir() if path.is_file())
    seed = seeds[int(number) % len(seeds)]
    place = folder / "work" / case
    for name in ("states", "spool"):
        (place / name).mkdir(parents=True)
    if kind == "prompts":
        shutil.copy(folder / kind / "cat.png", place)
    path = place / f"{seed.stem}-damaged{seed.suffix}"
    path.write_bytes(KINDS[kind].damage(seed, random))
    _say("begin", case)
    try:
        KINDS[kind].read(path)
        _say("good", case)
    except VosError as error:
        try:
            _check_sentence(error)
        except AssertionError as wrong:
            _say("fault", case, f"{seed.name}: {wrong}")
            return
        _say("refused", case, str(error))
    except BaseException:
        _say("fault", case, f"{seed.name}: {traceback.format_exc()}")
        return
    shutil.rmtree(place)


def main() -> None:
    cases, folder = sys.argv[1].split(","), Path(sys.argv[2])
    torch.set_num_threads(1)
    _limit_memory()
    for case in cases:
        run(case, folder)


def _limit_memory() -> None:
    """So that a file which has gigabytes made room for is noticed."""
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))


if __name__ == "__main__":
    main()
