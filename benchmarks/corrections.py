"""Simulated corrections: after each round the worst frame gets its true mask; what that gains, forward and both ways.

    python benchmarks/corrections.py run DAVIS --work DIR [--set dev] [--tracker propagate] [--rounds 5]
    python benchmarks/corrections.py merging DAVIS --work DIR
    python benchmarks/corrections.py draw DAVIS --work DIR --sequence dance-jump --out docs

run      round 0 tracks from the masks of the first frame. In every further round the frame with the lowest J&F among
         those without a mask of the user (by the truth, or as `Editor.suggest` has it with --choose suggest) gets the
         true masks of all objects, and `vos.Editor` propagates. J&F is the mean over all frames but the first one, so
         that a corrected frame counts as right; the columns "alone" say what the corrected frames would gain if nothing
         else changed. DIR keeps everything, so a run that was stopped goes on.
merging  on the frames between two prompts, after the last round both ways that lies in DIR: J&F of each pass, of the
         one with the greater weight, of the better one by the truth, and of what `vos.merging` makes of the two
draw     two pictures of one sequence from what lies in DIR: masks before and after, and J&F by frame
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from seem_core.prompts import MaskPrompt
from vos.benchmarks.layouts import AnnotatedSequence, open_layout
from vos.directions import Direction
from vos.drawing import draw_objects, text_picture
from vos.editor import Editor
from vos.images import read_image
from vos.label_files import read_labels, write_labels, write_whole
from vos.mask_spool import MaskSpool
from vos.merging import Anchors, merge_passes
from vos.metrics.frame import measure_labels
from vos.pipeline import TrackOptions

DIRECTIONS: tuple[Direction, ...] = ("forward", "both")
TILE = 165  # width of a frame in the pictures, in pixels
Labels = npt.NDArray[Any]  # (H, W)
Rgb = npt.NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class Round:
    """One round: the frame that was corrected (None in round 0), J&F of every frame, how many frames were tracked."""

    corrected: int | None
    scores: tuple[float, ...]
    tracked: int

    @property
    def mean(self) -> float:
        """J&F over all frames but the first."""
        return float(np.mean(self.scores[1:]))


class Simulation:
    """One sequence in one direction, in a folder that keeps its editor, its rounds and their masks."""

    def __init__(self, sequence: AnnotatedSequence, folder: Path, direction: Direction, options: TrackOptions) -> None:
        if sequence.images is None:
            raise SystemExit(f"{sequence.name} has no images")
        self.name, self.folder, self.direction = sequence.name, folder, direction
        self._images, self._options = sequence.images, options
        self._truth = list(sequence.masks.values())
        first = read_labels(self._truth[0])
        self.ids = [int(i) for i in np.unique(first) if i]

    @property
    def rounds(self) -> list[Round]:
        """The rounds that are done."""
        path = self.folder / "rounds.json"
        if not path.exists():
            return []
        return [Round(r["corrected"], tuple(r["scores"]), r["tracked"]) for r in json.loads(path.read_bytes())]

    def masks(self, number: int, frame: int) -> Labels:
        """The result of a frame after a round."""
        return read_labels(self.folder / f"round{number}" / f"{frame:05d}.png")

    def truth(self, frame: int) -> Labels:
        return read_labels(self._truth[frame])

    def image(self, frame: int) -> Rgb:
        return read_image(sorted(self._images.iterdir())[frame])

    def run(self, rounds: int, choose: str) -> Iterator[Round]:
        """Do what is left until round ``rounds``; yields each round as it is done."""
        with Editor(self._images, self.folder / "editor", options=self._options) as editor:
            while len(done := self.rounds) <= rounds:
                prompted = {prompt.frame for prompt in editor.prompts}
                if len(prompted) <= len(done):  # else the run was stopped after the prompt was given
                    self._correct(editor, self._next(editor, done, choose))
                tracked = sum(1 for _ in editor.propagate(self.direction))
                corrected = editor.prompts[-1].frame if done else None
                found = Round(corrected, tuple(self._measure(editor, len(done))), tracked)
                write_whole(self.folder / "rounds.json", json.dumps([asdict(r) for r in (*done, found)]).encode())
                yield found

    def _next(self, editor: Editor, done: Sequence[Round], choose: str) -> int:
        if not done:
            return 0
        prompted = {prompt.frame for prompt in editor.prompts}
        if choose == "suggest":
            return editor.suggest(1)[0]
        left = [i for i in range(len(self._truth)) if i not in prompted and np.isin(self.truth(i), self.ids).any()]
        return min(left, key=lambda frame: done[-1].scores[frame])

    def _correct(self, editor: Editor, frame: int) -> None:
        truth = self.truth(frame)
        for object_id in self.ids:
            if (truth == object_id).any():
                editor.add_prompt(frame, MaskPrompt(truth == object_id, object_id))

    def _measure(self, editor: Editor, number: int) -> Iterator[float]:
        folder = self.folder / f"round{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for frame in range(len(self._truth)):
            masks = editor.masks(frame)
            if masks is None:
                raise RuntimeError(f"frame {frame} of {self.name} has no result")
            write_labels(folder / f"{frame:05d}.png", masks.labels)
            yield self.measure(masks.labels, frame)

    def measure(self, labels: Labels, frame: int) -> float:
        """J&F of a frame, the mean over objects."""
        return float(measure_labels(labels, self.truth(frame), self.ids).mean())


def simulations(arguments: argparse.Namespace, names: Sequence[str]) -> Iterator[tuple[Simulation, Simulation]]:
    """Per sequence the simulation forward and the one both ways."""
    layout = open_layout(arguments.davis)
    for name in names:
        sequence = layout.sequence(name)
        found = []
        for direction in DIRECTIONS:
            options = TrackOptions(tracker=getattr(arguments, "tracker", "propagate"), threads=1, direction=direction)
            found.append(Simulation(sequence, arguments.work / name / direction, direction, options))
        yield found[0], found[1]


def run(arguments: argparse.Namespace) -> None:
    names = arguments.sequence or (arguments.davis / "ImageSets" / f"{arguments.set}.txt").read_text().split()
    table: dict[str, list[list[Round]]] = {direction: [] for direction in DIRECTIONS}
    for forward, both in simulations(arguments, names):
        follow(forward, 0, arguments.choose)
        if not both.folder.exists():  # from the first frame alone both ways are one
            shutil.copytree(forward.folder, both.folder, ignore=shutil.ignore_patterns(".lock"))
        for simulation in (forward, both):
            follow(simulation, arguments.rounds, arguments.choose)
            table[simulation.direction].append(simulation.rounds[: arguments.rounds + 1])
    print(markdown(names, table))


def follow(simulation: Simulation, rounds: int, choose: str) -> None:
    for found in simulation.run(rounds, choose):
        number = len(simulation.rounds) - 1
        said = f"{simulation.name} {simulation.direction} round {number}: J&F {found.mean:.4f}"
        print(f"{said}, corrected {found.corrected}, {found.tracked} frames tracked", flush=True)


def alone(rounds: Sequence[Round]) -> list[float]:
    """J&F after each round if the corrections had mended nothing but their own frames."""
    scores = np.array(rounds[0].scores)
    means = [float(scores[1:].mean())]
    for found in rounds[1:]:
        scores[found.corrected] = 1
        means.append(float(scores[1:].mean()))
    return means


def markdown(names: Sequence[str], table: dict[str, list[list[Round]]]) -> str:
    """Two tables: the mean over sequences by round, and every sequence by round, forward / both."""
    rounds = range(len(table["forward"][0]))
    lines = ["", "| round | forward | both | alone (forward) | alone (both) | frames tracked, forward / both |"]
    lines.append("|---|---|---|---|---|---|")
    for r in rounds:
        cells = [f"{np.mean([s[r].mean for s in table[d]]):.4f}" for d in DIRECTIONS]
        cells += [f"{np.mean([alone(s)[r] for s in table[d]]):.4f}" for d in DIRECTIONS]
        tracked = " / ".join(str(sum(s[r].tracked for s in table[d])) for d in DIRECTIONS)
        lines.append(f"| {r} | {' | '.join(cells)} | {tracked} |")
    lines += ["", f"| sequence | {' | '.join(f'round {r}' for r in rounds)} |", "|---" * (1 + len(rounds)) + "|"]
    for n, name in enumerate(names):
        cells = [" / ".join(f"{table[d][n][r].mean:.3f}" for d in DIRECTIONS) for r in rounds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- merging


def merging(arguments: argparse.Namespace) -> None:
    names = (arguments.davis / "ImageSets" / f"{arguments.set}.txt").read_text().split()
    columns = ("forward", "backward", "greater weight", "better by truth", "merged")
    print(f"| sequence | frames | {' | '.join(columns)} |\n|{'---|' * (2 + len(columns))}")
    means = []
    for _, both in simulations(arguments, names):
        rows = np.array(list(between(both)))  # (frames, 5)
        means.append(rows.mean(0))
        print(f"| {both.name} | {len(rows)} | {' | '.join(f'{value:.3f}' for value in rows.mean(0))} |", flush=True)
    print(f"| mean | | {' | '.join(f'{value:.4f}' for value in np.mean(means, 0))} |")


def between(simulation: Simulation) -> Iterator[tuple[float, ...]]:
    """J&F of every frame that lies between two prompts: by each pass, by choosing one, and merged."""
    prompted = sorted({0, *(r.corrected for r in simulation.rounds if r.corrected is not None)})
    passes = [MaskSpool(simulation.folder / "editor" / way / "masks") for way in ("forward", "backward")]
    anchors = Anchors(0, prompted[-1], {i: tuple(prompted) for i in simulation.ids})
    for frame in range(prompted[-1]):
        if frame in prompted:
            continue
        one, other = (spool.get(frame) for spool in passes)
        merged = merge_passes(one, other, anchors, frame)
        if one is None or other is None or merged is None:
            raise SystemExit(f"frame {frame} of {simulation.name} is not propagated both ways yet")
        ahead, back, both = (simulation.measure(found.labels, frame) for found in (one, other, merged))
        gone, left = anchors.distances(simulation.ids[0], frame)
        chosen = ahead if one.scores.mean() * left >= other.scores.mean() * gone else back
        yield ahead, back, chosen, max(ahead, back), both


# ---- pictures


def draw(arguments: argparse.Namespace) -> None:
    ((forward, both),) = simulations(arguments, [arguments.sequence])
    arguments.out.mkdir(parents=True, exist_ok=True)
    strips(both, arguments.rounds_shown, arguments.columns, arguments.out / "corrections_example.png")
    curves(forward, both, arguments.out / "corrections_curves.png")


def strips(simulation: Simulation, numbers: Sequence[int], columns: int, path: Path) -> None:
    """A row for each round: the same frames around the object, their masks and J&F; corrected frames have a border."""
    rounds = simulation.rounds
    corrected = [r.corrected for r in rounds if r.corrected is not None][: numbers[-1]]
    frames = sorted({*corrected, *evenly(len(rounds[0].scores), columns - len(corrected))})
    part = around(np.logical_or.reduce([simulation.truth(frame) > 0 for frame in frames]))
    rows = []
    for number in numbers:
        known = {0, *corrected[:number]}
        tiles = [tile(simulation, rounds[number], number, frame, part, frame in known) for frame in frames]
        title = text_picture(f"after round {number}: J&F {rounds[number].mean:.3f}", 14, (0, 0, 0), (255, 255, 255))
        row = np.hstack(tiles)
        head = np.full((title.shape[0] + 4, row.shape[1], 3), 255, np.uint8)
        head[2 : 2 + title.shape[0], 2 : 2 + title.shape[1]] = title
        rows.append(np.vstack([head, row]))
    save(np.vstack(rows), path)


def around(mask: npt.NDArray[np.bool_], margin: int = 30) -> tuple[slice, slice]:
    """The part of the picture that a mask lies in."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)


def tile(simulation: Simulation, found: Round, number: int, frame: int, part: tuple[slice, slice], known: bool) -> Rgb:
    image = simulation.image(frame)
    draw_objects(image, simulation.masks(number, frame), tags=False)
    image = np.ascontiguousarray(image[part])
    size = (TILE, round(TILE * image.shape[0] / image.shape[1]))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    picture = np.full((small.shape[0] + 6, small.shape[1] + 6, 3), (230, 60, 20) if known else (255,) * 3, np.uint8)
    picture[3:-3, 3:-3] = small
    said = f"{frame}: given" if known else f"{frame}: {found.scores[frame]:.2f}"
    text = text_picture(said, 12, (255, 255, 255), (0, 0, 0))
    picture[3 : 3 + text.shape[0], 3 : 3 + text.shape[1]] = text
    return picture


def evenly(count: int, n: int) -> list[int]:
    return [round(i) for i in np.linspace(0, count - 1, max(2, n))]


def curves(forward: Simulation, both: Simulation, path: Path) -> None:
    """J&F by frame before, and after each round; forward above, both ways below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True, sharey=True)
    for simulation, axis in zip((forward, both), axes, strict=True):
        rounds = simulation.rounds
        for number, found in enumerate(rounds):
            shade = plt.get_cmap("viridis")(1 - number / max(1, len(rounds) - 1) * 0.9)
            axis.plot(found.scores, color=shade, label=f"round {number}: {found.mean:.3f}", linewidth=1.4)
            if found.corrected is not None:
                axis.plot(found.corrected, 1.0, marker="v", color=shade, markersize=8, clip_on=False)
        axis.set(title=f"{simulation.name}, {simulation.direction}", ylabel="J&F")
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left", fontsize=8, ncols=2)
    axes[-1].set_xlabel("frame (triangles: frames that got their true mask)")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(path)


def save(picture: Rgb, path: Path) -> None:
    """As PNG with a palette of its own, which photographs in this size can do with."""
    Image.fromarray(picture).quantize(128, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("davis", type=Path, help="root of a DAVIS layout")
    running.add_argument("--work", type=Path, required=True, help="folder that keeps everything")
    running.add_argument("--set", default="dev", help="list in ImageSets")
    running.add_argument("--sequence", nargs="+", help="these sequences instead of a list")
    running.add_argument("--tracker", default="propagate")
    running.add_argument("--rounds", type=int, default=5)
    running.add_argument("--choose", choices=("worst", "suggest"), default="worst", help="which frame is corrected")
    running.set_defaults(call=run)
    joining = commands.add_parser("merging")
    joining.add_argument("davis", type=Path, help="root of a DAVIS layout")
    joining.add_argument("--work", type=Path, required=True, help="folder of an earlier run")
    joining.add_argument("--set", default="dev", help="list in ImageSets")
    joining.set_defaults(call=merging)
    drawing = commands.add_parser("draw")
    drawing.add_argument("davis", type=Path, help="root of a DAVIS layout")
    drawing.add_argument("--work", type=Path, required=True, help="folder of an earlier run")
    drawing.add_argument("--sequence", required=True)
    drawing.add_argument("--rounds-shown", type=int, nargs="+", default=[0, 1, 3])
    drawing.add_argument("--columns", type=int, default=6)
    drawing.add_argument("--out", type=Path, required=True)
    drawing.set_defaults(call=draw)
    arguments = parser.parse_args()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
