"""Overlay and contact sheet: times, sound, sizes and colours of what is made from masks on disk."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from results import write_results

from seem_core.errors import DiskFullError, InputError, MaskError, OutputError
from vos import video_writer
from vos.contact_sheet import columns_for, evenly
from vos.drawing import bright_colour_of, colour_of, draw_objects
from vos.masks import read_labels, write_labels
from vos.output import read_run
from vos.render import render
from vos.video import open_video
from vos.video_writer import VideoWriter

Packets = list[tuple[float, float]]


def clip(path: Path, *, size: tuple[int, int] = (64, 96), times: list[float] | None = None) -> Path:
    """A grey ramp that gets brighter, at the given times (seconds)."""
    height, width = size
    with VideoWriter(path, height, width, Fraction(25)) as writer:
        for i, seconds in enumerate(times or [k / 25 for k in range(12)]):
            ramp = np.linspace(0, 150, width, dtype=np.uint8)[None, :, None] + np.uint8(3 * i)
            writer.write(np.broadcast_to(ramp, (height, width, 3)), seconds)
    return path


def with_sound(path: Path, source: Path, codec: str, *, rate: int = 48000, seconds: float = 0.5) -> Path:
    """The pictures of ``source`` with a tone of its own length, in Matroska."""
    with av.open(str(source)) as pictures, av.open(str(path), "w", format="matroska") as target:
        video = target.add_stream_from_template(pictures.streams.video[0])
        sound = target.add_stream(codec, rate=rate)
        sound.layout = "stereo"
        for packet in pictures.demux(pictures.streams.video[0]):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
        tone = (np.sin(np.arange(round(rate * seconds)) * 0.05) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(tone, 2)[None], format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        target.mux(sound.encode(frame))
        target.mux(sound.encode(None))
    return path


def packets(path: Path, kind: str) -> Packets:
    """(time, duration) in seconds of each packet of the first stream of a kind, in presentation order."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        found = [
            (float(p.pts * p.time_base), float((p.duration or 0) * p.time_base))
            for p in container.demux(stream)
            if p.pts is not None
        ]
    return sorted(found)


def rendered(tmp_path: Path, video: Path, *, tracked: range | None = None, **options: object) -> Path:
    out = tmp_path / "out"
    with open_video(video) as source:
        write_results(out, source, tracked=tracked)
    render(out, **options)  # type: ignore[arg-type]
    return out


def frame_times(path: Path) -> list[float]:
    with open_video(path) as source:
        return [source.seconds(i) for i in range(len(source))]


def test_what_is_made_and_noted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_video(clip(tmp_path / "a.mp4")) as source:
        write_results(out, source)
    calls: list[tuple[int, int]] = []
    result = render(out, progress=lambda done, total: calls.append((done, total)))
    assert result.made == (out / "overlay.mp4", out / "contact.png")
    assert result.warnings == ()
    assert calls == [(i, 12) for i in range(1, 13)]
    assert read_run(out).rendered == ("contact.png", "overlay.mp4")
    assert not list(out.glob(".*"))


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    out = rendered(tmp_path, clip(tmp_path / "a.mp4"), what=["contact"])
    assert (out / "contact.png").exists()
    assert not (out / "overlay.mp4").exists()


def test_objects_show_in_their_colours_and_the_rest_stays(tmp_path: Path) -> None:
    video = clip(tmp_path / "a.mp4", size=(120, 200))
    out = rendered(tmp_path, video, what=["overlay"], alpha=1.0)
    labels = read_labels(out / "masks/00006.png")
    with open_video(out / "overlay.mp4") as overlay, open_video(video) as source:
        image, plain = overlay[6].image.astype(int), source[6].image.astype(int)
    for object_id in (1, 2):
        ys, xs = np.nonzero(labels == object_id)
        middle = image[round(ys.mean()) - 3 : round(ys.mean()) + 4, round(xs.mean()) - 3 : round(xs.mean()) + 4]
        assert np.abs(middle.mean((0, 1)) - colour_of(object_id)).max() < 12
    assert np.abs(image[100:, 150:] - plain[100:, 150:]).mean() < 4


def test_variable_frame_times_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.05, 0.2, 0.233366, 0.9, 1.0, 1.5]
    out = rendered(tmp_path, clip(tmp_path / "a.mp4", times=times), what=["overlay"])
    assert frame_times(out / "overlay.mp4") == pytest.approx(times, abs=1e-5)


def test_start_and_stride_keep_distances(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.3, 0.5, 0.55, 0.8, 1.0]
    video = clip(tmp_path / "a.mp4", times=times)
    out = rendered(tmp_path, video, tracked=range(1, 8, 2))
    assert frame_times(out / "overlay.mp4") == pytest.approx([0.0, 0.2, 0.45, 0.9], abs=1e-5)
    with open_video(out / "overlay.mp4") as overlay, open_video(video) as source:
        for i, j in enumerate(range(1, 8, 2)):
            assert np.abs(overlay[i].image[-6:, :6].astype(int) - source[j].image[-6:, :6]).mean() < 4


@pytest.mark.parametrize("size", [(63, 97), (64, 97), (63, 96), (1, 1)])
def test_odd_sizes_are_padded_by_one(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", size[::-1], (40 * i, 90, 90)).save(folder / f"img{i}.png")
    out = rendered(tmp_path, folder)
    with av.open(str(out / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert stream.pix_fmt == "yuv420p"
        assert stream.codec_context.name in ("h264", "mpeg4")


def test_copied_sound_is_the_same_packet_by_packet(tmp_path: Path) -> None:
    video = with_sound(tmp_path / "a.mkv", clip(tmp_path / "a.mp4"), "aac", seconds=0.7)
    out = rendered(tmp_path, video, what=["overlay"])
    kept, given = packets(out / "overlay.mp4", "audio"), packets(video, "audio")
    assert len(kept) == len(given)
    assert [t for t, _ in kept] == pytest.approx([t for t, _ in given], abs=2e-3)  # Matroska counts milliseconds


def test_sound_that_mp4_cannot_hold_is_encoded_again(tmp_path: Path) -> None:
    video = with_sound(tmp_path / "a.mkv", clip(tmp_path / "a.mp4"), "flac", rate=44100, seconds=0.5)
    out = rendered(tmp_path, video, what=["overlay"])
    with av.open(str(out / "overlay.mp4")) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == "aac"
        assert sound.codec_context.sample_rate == 44100
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(sound)])
    assert len(heard) / 44100 == pytest.approx(0.5, abs=0.06)
    assert np.abs(heard[5000:15000]).max() > 0.1


@pytest.mark.parametrize("codec", ["aac", "flac"])
def test_a_part_of_the_video_has_its_part_of_the_sound(tmp_path: Path, codec: str) -> None:
    pictures = clip(tmp_path / "a.mp4", times=[k / 10 for k in range(30)])
    video = with_sound(tmp_path / "a.mkv", pictures, codec, seconds=3.0)
    out = rendered(tmp_path, video, tracked=range(10, 20), what=["overlay"])
    sound = packets(out / "overlay.mp4", "audio")
    assert -0.07 <= sound[0][0] <= 0.05
    assert sound[-1][0] + sound[-1][1] == pytest.approx(1.0, abs=0.08)
    assert len(frame_times(out / "overlay.mp4")) == 10


def test_sound_that_fails_leaves_a_silent_video_and_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = with_sound(tmp_path / "a.mkv", clip(tmp_path / "a.mp4"), "flac")

    def broken(*_: object) -> None:
        raise av.error.InvalidDataError(1094995529, "Invalid data found when processing input")

    monkeypatch.setattr("vos.audio._encoded", broken)
    out = tmp_path / "out"
    with open_video(video) as source:
        write_results(out, source)
    result = render(out, what=["overlay"])
    assert len(result.warnings) == 1
    assert "sound of a.mkv could not be kept" in result.warnings[0]
    with av.open(str(out / "overlay.mp4")) as container:
        assert not container.streams.audio
    assert len(frame_times(out / "overlay.mp4")) == 12


def test_without_libx264_another_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {k: v for k, v in video_writer._ENCODERS.items() if k != "libx264"}
    video = clip(tmp_path / "a.mp4")
    monkeypatch.setattr(video_writer, "_ENCODERS", others)
    out = tmp_path / "out"
    with open_video(video) as source:
        write_results(out, source)
    result = render(out, what=["overlay"])
    assert "lacks libx264" in result.warnings[0]
    assert frame_times(out / "overlay.mp4") == pytest.approx([k / 25 for k in range(12)], abs=1e-4)
    monkeypatch.setattr(video_writer, "_ENCODERS", {})
    with pytest.raises(OutputError, match="none of the encoders"):
        render(out, what=["overlay"])
    assert not list(out.glob(".*"))


def test_corrected_masks_are_used(tmp_path: Path) -> None:
    out = rendered(tmp_path, clip(tmp_path / "a.mp4"), what=["overlay"])
    before = (out / "overlay.mp4").read_bytes()
    write_labels(out / "masks/00003.png", np.full((64, 96), 9, np.uint8))
    render(out, what=["overlay"], alpha=1.0)
    assert (out / "overlay.mp4").read_bytes() != before
    with open_video(out / "overlay.mp4") as overlay:
        assert np.abs(overlay[3].image[40:50, 40:60].astype(int).mean((0, 1)) - colour_of(9)).max() < 12


def test_an_interrupted_run_shows_what_it_has(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_video(clip(tmp_path / "a.mp4")) as source:
        write_results(out, source, tracked=range(5), finish=False)
    render(out)
    assert len(frame_times(out / "overlay.mp4")) == 5


def test_source_that_moved_or_changed(tmp_path: Path) -> None:
    video = clip(tmp_path / "a.mp4")
    out = rendered(tmp_path, video, what=["contact"])
    video.rename(tmp_path / "b.mp4")
    with pytest.raises(InputError, match="not there any more"):
        render(out)
    render(out, what=["contact"], video=tmp_path / "b.mp4")
    with pytest.raises(InputError, match="not the video that was tracked"):
        render(out, video=clip(tmp_path / "c.mp4", size=(64, 64)))


def test_what_cannot_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results folder"):
        render(tmp_path)
    out = rendered(tmp_path, clip(tmp_path / "a.mp4"), what=[])
    with pytest.raises(InputError, match="pdf cannot be rendered"):
        render(out, what=["pdf"])
    with pytest.raises(InputError, match="alpha 2"):
        render(out, alpha=2)
    write_labels(out / "masks/00003.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(MaskError, match="is 6x5, the video 96x64"):
        render(out)
    os.remove(out / "masks/00003.png")
    with pytest.raises(MaskError, match="does not exist"):
        render(out)
    assert {p.name for p in out.iterdir()} == {"masks", "frames.jsonl", "run.json"}


def test_a_full_disk_leaves_no_half_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = rendered(tmp_path, clip(tmp_path / "a.mp4"), what=[])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vos.render.os.replace", full)
    with pytest.raises(DiskFullError):
        render(out, what=["overlay"])
    assert not list(out.glob("*overlay*"))


@pytest.mark.parametrize("count", [1, 2, 7, 20, 21, 1000])
def test_frames_of_the_sheet_are_evenly_spaced(count: int) -> None:
    chosen = evenly(count)
    assert len(chosen) == min(count, 20)
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 1 else True


@pytest.mark.parametrize("size", [(480, 854), (854, 480), (16, 4000), (4000, 16)])
@pytest.mark.parametrize("frames", [1, 12])
def test_sheet_is_readable_and_bounded(tmp_path: Path, size: tuple[int, int], frames: int) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(frames):
        Image.new("RGB", size[::-1], (90, 90, 10 * i)).save(folder / f"{i}.jpg")
    with open_video(folder) as source:
        write_results(tmp_path / "out", source, ids=(*range(1, 12), 300))
    render(tmp_path / "out", what=["contact"])
    with Image.open(tmp_path / "out/contact.png") as sheet:
        assert sheet.mode == "RGB"
        assert 16 <= sheet.width <= 1600


def test_columns() -> None:
    assert columns_for(20, 480, 854) == 5
    assert columns_for(1, 480, 854) == 1
    assert columns_for(20, 854, 480) == 8


def test_drawing_is_in_place_and_for_any_ids() -> None:
    labels = np.zeros((40, 60), np.uint16)
    labels[5:20, 5:20], labels[20:38, 30:55] = 7, 60000
    image = np.full((40, 60, 3), 128, np.uint8)
    draw_objects(image, labels, alpha=1.0, tags=False)
    assert tuple(image[12, 12]) == colour_of(7)
    assert tuple(image[30, 42]) == colour_of(60000)
    assert np.abs(image[5, 12].astype(int) - bright_colour_of(7)).max() < 16  # lines are drawn smooth
    assert (image[2, 50] == 128).all()
    with pytest.raises(ValueError, match="labels are"):
        draw_objects(image, labels[1:])


def test_every_id_has_a_visible_colour() -> None:
    assert all(max(colour_of(i)) > 0 for i in [*range(1, 600), 65535])


@pytest.mark.parametrize(
    ("name", "sound"),
    [
        ("realshort.mp4", "aac"),
        ("no_duration.webm", "aac"),
        ("video_with_failing_audio.mp4", "mp3float"),
        ("video_90.mov", None),
        ("newtonscradle.gif", None),
        ("corrupted.mp4", None),
    ],
)
def test_real_files(data_root: Path, tmp_path: Path, name: str, sound: str | None) -> None:
    video = data_root / "videos" / name
    out = tmp_path / "out"
    with open_video(video) as source:
        tracked = range(min(30, len(source)))
        write_results(out, source, tracked=tracked)
        found = [i for i in tracked if i not in source.gaps]
        times = [source.seconds(i) - source.seconds(found[0]) for i in found]
        upright = (source.info.height, source.info.width)
    assert render(out).warnings == ()
    assert frame_times(out / "overlay.mp4") == pytest.approx(times, abs=1e-5)
    with open_video(out / "overlay.mp4") as overlay:
        assert (overlay.info.height - upright[0], overlay.info.width - upright[1]) == (upright[0] % 2, upright[1] % 2)
    with av.open(str(out / "overlay.mp4")) as container:
        assert [s.codec_context.name for s in container.streams.audio] == ([sound] if sound else [])


def test_sound_of_a_real_file_is_whole(data_root: Path, tmp_path: Path) -> None:
    video = data_root / "videos" / "realshort.mp4"
    out = rendered(tmp_path, video, what=["overlay"])
    np.testing.assert_allclose(packets(out / "overlay.mp4", "audio"), packets(video, "audio"), atol=1e-4)
