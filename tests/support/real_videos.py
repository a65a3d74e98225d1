"""The awkward real videos of the data set, each with its expected outcome."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Expected:
    """What a file of the data set gives; colours are the mean RGB of the first and the last frame."""

    frames: int
    declared: int | None
    size: tuple[int, int]  # height, width
    rate: Fraction
    codec: str
    first: tuple[float, float, float]
    last: tuple[float, float, float]
    rotation: int = 0
    audio: bool = False
    gaps: tuple[int, ...] = ()
    decord: str | None = None  # why decord does not read it; None: it does


def fps(numerator: int, denominator: int = 1) -> Fraction:
    return Fraction(numerator, denominator)


CANNOT_OPEN, CANNOT_DECODE = "decord cannot open", "decord cannot decode"

# Colours were seen in both readers, or, where decord does not read the file, in OpenCV's.
FILES: dict[str, Expected | str] = {
    "01_dog.mp4": Expected(
        289, 289, (720, 1280), fps(30000, 1001), "h264", (144.7, 143.4, 124.4), (144.7, 143.6, 124.4), audio=True
    ),
    "AudioVideoInterleave.avi": "its video stream holds no frame",  # a stub: header and cut index
    "av1_video.mkv": Expected(
        125, None, (360, 640), fps(25), "av1", (120.0, 129.1, 127.7), (120.5, 128.4, 124.4), decord=CANNOT_OPEN
    ),
    "bikes.mp4": Expected(250, 250, (272, 640), fps(25), "h264", (141.7, 133.3, 129.4), (80.4, 80.0, 74.6)),
    "corrupted.mp4": Expected(  # one packet is broken; what depends on it comes out with blemishes
        50,
        50,
        (720, 1280),
        fps(10),
        "h264",
        (122.2, 128.7, 128.6),
        (122.9, 129.7, 127.5),
        gaps=(30,),
        decord=CANNOT_DECODE,
    ),
    "h264_10bits.mp4": Expected(30, 30, (200, 200), fps(30), "h264", (114.6, 117.1, 124.8), (117.0, 117.9, 124.1)),
    "newtonscradle.gif": Expected(  # the header says 50 fps; frames last 2 or 5 hundredths of a second
        36, 36, (150, 200), fps(175, 4), "gif", (194.5, 194.5, 194.5), (194.5, 194.5, 194.5), decord=CANNOT_OPEN
    ),
    "no_duration.webm": Expected(
        74,
        None,
        (720, 1280),
        fps(15000, 1001),
        "vp9",
        (1.1, 4.9, 3.2),
        (1.5, 5.9, 4.0),
        audio=True,
        decord=CANNOT_OPEN,
    ),
    "realshort.mp4": Expected(
        36, 36, (240, 320), fps(45000, 1499), "h264", (154.2, 157.7, 154.1), (138.6, 152.5, 150.4), audio=True
    ),
    "video_90.mov": Expected(3, 3, (568, 320), fps(30), "h264", (104.4, 93.8, 85.8), (104.7, 94.1, 86.0), rotation=90),
    "video_with_failing_audio.mp4": Expected(
        280, 280, (360, 640), fps(25), "h264", (180.4, 190.9, 198.3), (1.8, 1.8, 1.8), audio=True
    ),
}
READABLE = [name for name, outcome in FILES.items() if isinstance(outcome, Expected)]
