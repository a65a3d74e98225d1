"""Draw where a tracker was wrong beside the truth: one row per frame, cut out around the object.

    vos davis $VOS_DATA/davis --set dev --year 2016 -t lite -o runs/dev
    python benchmarks/failure_sheet.py $VOS_DATA/davis runs/dev/lite sheet.jpg kite-walk:44 motorbike:22

Left the annotation, right the result, drawn by `vos.drawing`. With ``--worst`` instead of frames, the frame with the
lowest J of every sequence in the folder. The frame's J stands on the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from vos.drawing import draw_objects, paste, text_picture
from vos.images import read_image
from vos.label_files import read_labels
from vos.metrics.region import jaccard_of_labels

Rgb = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]

SIZE = (300, 440)  # height and width of a cell, pixels
GAP = 6
MARGIN = 0.2  # of the object's box
INK, PAPER = (255, 255, 255), (0, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="DAVIS")
    parser.add_argument("results", type=Path, help="folder with <sequence>/<frame>.png")
    parser.add_argument("output", type=Path)
    parser.add_argument("frames", nargs="*", metavar="SEQUENCE:FRAME")
    parser.add_argument("--worst", action="store_true")
    parser.add_argument("--resolution", default="480p")
    arguments = parser.parse_args()
    truth = arguments.root / "Annotations" / arguments.resolution
    pictures = arguments.root / "JPEGImages" / arguments.resolution
    frames = [(name, int(number)) for name, number in (text.rsplit(":", 1) for text in arguments.frames)]
    if arguments.worst:
        frames = [worst(truth / folder.name, folder) for folder in sorted(arguments.results.iterdir())]
    rows = []
    for name, number in frames:
        place = f"{name}/{number:05d}"
        image = read_image(pictures / f"{place}.jpg")
        rows.append(
            row(
                arguments.results.name,
                place,
                image,
                load(truth / f"{place}.png"),
                load(arguments.results / f"{place}.png"),
            )
        )
    sheet = np.concatenate(rows)[:-GAP, :-GAP]
    Image.fromarray(sheet).save(arguments.output, quality=78, optimize=True)
    print(f"{arguments.output}: {len(rows)} frames, {arguments.output.stat().st_size} bytes")


def worst(truth: Path, results: Path) -> tuple[str, int]:
    """The frame of a sequence with the lowest J; the first is given and the last does not count."""
    files = sorted(results.glob("*.png"))[1:-1]
    scores = [region(load(truth / file.name), load(file)) for file in files]
    return results.name, int(files[int(np.argmin(scores))].stem)


def row(name: str, place: str, image: Rgb, truth: Labels, result: Labels) -> Rgb:
    """(SIZE[0] + GAP, 2 SIZE[1] + 2 GAP, 3): annotation and result, white between."""
    top, bottom, left, right = around((truth > 0) | (result > 0))
    cells = []
    for labels, caption in ((truth, f"{place}  annotation"), (result, f"{name}  J {region(truth, result):.2f}")):
        part = np.ascontiguousarray(image[top:bottom, left:right])
        cut = np.ascontiguousarray(labels[top:bottom, left:right])
        draw_objects(part, cut, alpha=0.4, tags=False)
        cell = np.asarray(cv2.resize(part, SIZE[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        paste(cell, text_picture(caption, 15, INK, PAPER), 0, 0)
        cells.append(cv2.copyMakeBorder(cell, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    return np.asarray(np.concatenate(cells, 1), np.uint8)


def around(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a window of the cells' shape around the object, inside the picture."""
    height, width = mask.shape
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    tall = (1 + 2 * MARGIN) * max(h, w * SIZE[0] / SIZE[1])
    tall = min(tall, height, width * SIZE[0] / SIZE[1])
    wide = tall * SIZE[1] / SIZE[0]
    top = round(min(max(0.0, y + h / 2 - tall / 2), height - tall))
    left = round(min(max(0.0, x + w / 2 - wide / 2), width - wide))
    return top, top + round(tall), left, left + round(wide)


def region(truth: Labels, result: Labels) -> float:
    """J of everything that is above 0."""
    both = [(labels > 0).astype(np.uint8) for labels in (result, truth)]
    return float(jaccard_of_labels(both[0], both[1], [1])[0])


def load(path: Path) -> Labels:
    return np.asarray(read_labels(path), np.uint8)


if __name__ == "__main__":
    main()
