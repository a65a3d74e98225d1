"""The limit of pictures: every way by which a picture comes in is compared with it before room is made for pixels."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.main import run
from cli.options import DEFAULT_MAX_PIXELS as CLI_DEFAULT
from seem_core.errors import InputError, MaskError, VideoError
from vos.areas import Scaling
from vos.images import ImageSequence, read_image
from vos.label_files import read_labels
from vos.masks import read_prompt_mask
from vos.picture_limit import DEFAULT_MAX_PIXELS, check_pixels, max_pixels, open_picture, set_max_pixels
from vos.pipeline import TrackOptions, track
from vos.prompt_file import PromptTarget, read_prompts
from vos.prompt_sources import ReferenceFile, read_reference
from vos.video import open_video
from vos.video_writer import VideoWriter

SMALL = 1000  # pixels: 40 x 25


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Whatever a test sets, the next one has the default."""
    pillow = Image.MAX_IMAGE_PIXELS
    yield
    set_max_pixels(DEFAULT_MAX_PIXELS)
    Image.MAX_IMAGE_PIXELS = pillow


def claiming(width: int, height: int, colour: int = 0, suffix_bytes: bytes = b"\0" * 10) -> bytes:
    """A PNG of a few bytes whose header claims so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(suffix_bytes)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def clip(path: Path, width: int, height: int, frames: int = 3) -> Path:
    with VideoWriter(path, height, width, Fraction(10)) as writer:
        for n in range(frames):
            writer.write(np.full((height, width, 3), 40 * n, np.uint8), n / 10)
    return path


def labels(path: Path, width: int, height: int) -> Path:
    Image.fromarray(np.ones((height, width), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (9000, 9000), (2_000_000_000, 2)])
@pytest.mark.parametrize(
    ("read", "error"),
    [(read_image, VideoError), (read_labels, MaskError), (read_prompt_mask, MaskError), (open_video, VideoError)],
)
def test_what_a_header_claims(
    tmp_path: Path, read: Callable[[Path], object], error: type[InputError], width: int, height: int
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(claiming(width, height))
    with pytest.raises(error) as caught:
        read(path)
    if read is not open_video:  # which says that none of the images can be decoded
        assert "pixels; raise --max-pixels" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_at_the_limit_and_one_above(tmp_path: Path) -> None:
    fits, above = labels(tmp_path / "fits.png", 40, 25), labels(tmp_path / "above.png", 41, 25)
    set_max_pixels(SMALL)
    assert read_labels(fits).shape == read_image(fits).shape[:2] == (25, 40)
    for read in (read_labels, read_image, read_prompt_mask):
        with pytest.raises(InputError, match=r"above.png is 41x25, more than 1000 pixels"):
            read(above)
    set_max_pixels(41 * 25)
    assert read_labels(above).shape == (25, 41)


def test_a_limit_above_that_of_pillow(tmp_path: Path) -> None:
    """Pillow would refuse twice its own limit, and warn at once; raised here to see that ours replaces it."""
    path = labels(tmp_path / "large.png", 400, 300)
    Image.MAX_IMAGE_PIXELS = 1000
    set_max_pixels(400 * 300)
    assert read_image(path).shape == (300, 400, 3)
    Image.MAX_IMAGE_PIXELS = 1000  # both of Pillow's ways to refuse are ours
    with pytest.raises(VideoError, match="more than 120000 pixels"):
        read_image(path)


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "mask.npy"
    np.save(path, np.ones((25, 41), np.uint8))
    set_max_pixels(SMALL)
    with pytest.raises(MaskError, match="41x25, more than 1000"):
        read_prompt_mask(path)
    set_max_pixels(DEFAULT_MAX_PIXELS)
    assert read_prompt_mask(path).ids == (1,)
    head = path.read_bytes()[:128].replace(b"(25, 41), }      ", b"(250000, 410000),}")[:128]
    assert len(head) == 128
    path.write_bytes(head + b"\1" * 100)
    with pytest.raises(MaskError, match="not a readable"):
        read_prompt_mask(path)  # a tenth of a terabyte is claimed


def test_a_sparse_array_is_not_read(tmp_path: Path) -> None:
    """The file is as long as it claims to be, and takes no room on disk."""
    path = tmp_path / "mask.npy"
    np.save(path, np.ones((4, 4), np.uint8))
    head = path.read_bytes()[:128].replace(b"(4, 4), }            ", b"(100000, 100000), }  ")
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(128 + 100_000**2)
    with pytest.raises(MaskError, match="100000x100000, more than"):
        read_prompt_mask(path)


def test_videos(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4", 122, 90)
    set_max_pixels(122 * 90)  # the codec works on 128 x 96
    assert [frame.index for frame in open_video(path)] == [0, 1, 2]
    set_max_pixels(122 * 90 - 1)
    with pytest.raises(VideoError, match="is 122x90, more than 10979 pixels"):
        open_video(path)


def test_a_video_that_grows(tmp_path: Path) -> None:
    """Later frames are larger than the first, and than the limit."""
    path, data = tmp_path / "grows.mjpeg", io.BytesIO()
    for n in range(6):
        Image.new("RGB", (40, 30) if n < 3 else (400, 300), (40 * n, 0, 0)).save(data, "JPEG")
    path.write_bytes(data.getvalue())
    assert len(list(open_video(path))) == 6
    set_max_pixels(200 * 200)
    video = open_video(path)
    assert [frame.index for frame in video] == [0, 1, 2]
    assert video.gaps == (3, 4, 5)


def test_an_image_of_a_sequence_is_a_gap(tmp_path: Path) -> None:
    for n in range(3):
        Image.new("RGB", (40, 25)).save(tmp_path / f"{n}.png")
    (tmp_path / "1.png").write_bytes(claiming(60_000, 60_000, colour=2))
    video = ImageSequence(tmp_path)
    assert [frame.index for frame in video] == [0, 2]
    assert "1.png has more than" in video.warnings[0]


def test_pictures_inside_prompts(tmp_path: Path) -> None:
    bomb = base64.b64encode(claiming(50_000, 50_000)).decode()
    reference = {"reference": {"image": {"png": bomb}, "mask": "m.png"}}
    shape = {"label": "cat", "shape_type": "mask", "points": [[0, 0], [4, 4]], "mask": bomb}
    files = {
        "ours.json": {"version": 1, "objects": [{"id": 1, "prompts": [reference]}]},
        "labelme.json": {"shapes": [shape], "imageHeight": 25, "imageWidth": 40},
        "drawn.json": {"shapes": [shape], "imageHeight": 250_000, "imageWidth": 400_000},
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
        with pytest.raises(InputError, match=r"more than \d+ pixels") as caught:
            read_prompts(tmp_path / name, PromptTarget((25, 40)))
        assert str(caught.value).startswith(str(tmp_path / name))
    with pytest.raises(MaskError, match="400000x250000"):
        Scaling.of((250_000, 400_000), (25, 40), "a.json: ")


def test_pictures_that_show_an_object(tmp_path: Path) -> None:
    good = labels(tmp_path / "good.png", 40, 25)
    above = labels(tmp_path / "above.png", 41, 25)
    set_max_pixels(SMALL)
    for file in (ReferenceFile(above, good), ReferenceFile(good, above)):
        with pytest.raises(InputError, match="41x25, more than 1000"):
            read_reference(file)


def test_only_pictures_are_opened_as_pictures(tmp_path: Path) -> None:
    """PostScript under the name of a PNG would start Ghostscript."""
    path = tmp_path / "mask.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 25\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as opened:
        assert opened.format == "EPS"
    with pytest.raises(MaskError, match="cannot be read as a picture"):
        read_labels(path)
    with pytest.raises(VideoError, match="not an image that can be read"):
        read_image(path)
    for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
        Image.new("L", (8, 8)).convert("RGB").save(path, kind)
        with open_picture(path, "x", InputError) as picture:
            assert picture.size == (8, 8)


def test_options(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4", 64, 48)
    with pytest.raises(VideoError, match="64x48, more than 3000"):
        track(path, tracker="copy", max_pixels=3000)
    assert max_pixels() == 3000
    TrackOptions()  # says nothing and changes nothing
    assert max_pixels() == 3000
    for make in (lambda: TrackOptions(max_pixels=0), lambda: set_max_pixels(0)):
        with pytest.raises(InputError, match="allows no picture"):
            make()
    with pytest.raises(MaskError, match=r"^x is 10x400, more than 3000"):
        check_pixels(10, 400, "x", MaskError)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, mask = clip(tmp_path / "clip.mp4", 64, 48), labels(tmp_path / "clip.png", 64, 48)
    words = ["track", str(path), "-m", str(mask), "-o", str(tmp_path / "out"), "--tracker", "copy", "-q"]
    assert run([*words, "--max-pixels", "3071"]) == 3
    assert "clip.mp4 is 64x48, more than 3071 pixels; raise --max-pixels" in capsys.readouterr().err
    assert run([*words, "--max-pixels", "3072"]) == 0
    assert run([*words, "--overwrite"]) == 0
    assert max_pixels() == DEFAULT_MAX_PIXELS == CLI_DEFAULT
    picture = ["segment", str(mask), "-p", "4,4", "--model", "lite", "-o", str(tmp_path / "seem")]
    assert run([*picture, "--max-pixels", "3071"]) == 3
    assert "clip.png is 64x48, more than 3071 pixels" in capsys.readouterr().err
