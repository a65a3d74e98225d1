"""What limits `propagate`: J and F with one fault at a time removed by the truth.

    python benchmarks/oracle.py $VOS_DATA/davis -o out                   all variants over ImageSets/dev.txt
    python benchmarks/oracle.py $VOS_DATA/davis -o out --only as-is size-320

Masks of a variant go to ``out/<variant>/<sequence>/``. Sequences that are there already are not tracked again, so a run
may be cut and go on, or be given in parts. The tables show the variants of which all is there.

    as-is             the tracker as people have it
    border-8, -4      no tracker: the true mask of every frame as shares of cells at stride 8 (4) of the encoded
                      picture, enlarged again; nothing that decides per cell of that size can be better
    true-previous     memory gets the true mask of every frame: no drift. What is found is still found by the tracker
    true-place        recent frames are moved so that the object's true place then lies on its true place now: a search
                      window that is never beside a fast object
    no-look-alikes    nothing is found further than one coarse cell (stride 16) from the true object, where memory
                      then knows the background
    all-three         true-previous, true-place and no-look-alikes together
    size-240, ...     the encoded picture has the area of 240x432 (320x576, 640x1152) pixels instead of 480x864
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.features import Features
from trackers.base import Image, Labels
from trackers.borders import label_map
from trackers.dense import Reading, View, shrink_mask
from trackers.memory_bank import Entry, MemoryBank
from trackers.propagate import Decision, DenseTracker
from trackers.propagation import Keys, LabelPropagation, PropagationConfig, encoded_size
from vos.benchmarks.davis_prompts import first_masks, sequence_images
from vos.benchmarks.layouts import AnnotatedSequence, Layout, mask_files, open_layout
from vos.benchmarks.measure import present_ids
from vos.benchmarks.scores import Scores
from vos.benchmarks.scoring import score_predictions
from vos.device import tune_process
from vos.images import read_image
from vos.label_files import read_labels, write_labels

Mask = npt.NDArray[np.bool_]
AS_IS = "as-is"
SIZES = {"size-240": 240 * 432, "size-320": 320 * 576, "size-640": 640 * 1152}
STRIDES = {"border-8": 8, "border-4": 4}
NEAR = 8  # pixels of the picture: errors so close to the true border are the border's


class EncodesOnce(LabelPropagation):
    """Label propagation that several trackers of the same pictures share: each picture is encoded once."""

    _last: tuple[Image, Features] | None = None

    def encode(self, image: Image) -> Features:
        if self._last is None or self._last[0] is not image:
            self._last = (image, super().encode(image))
        return self._last[1]


class ToldTracker(DenseTracker):
    """`propagate`, told the truth of each frame before its step, and what of it to use."""

    name = "told"

    def __init__(self, reader: LabelPropagation, variant: str) -> None:
        super().__init__(reader)
        self.truth: Labels = np.zeros((0, 0), np.uint8)
        self._uses = {"true-previous", "true-place", "no-look-alikes"} if variant == "all-three" else {variant}
        self._places: dict[int, tuple[float, float]] = {}  # frame -> true centre of all objects, shares of the picture

    def _read(self, view: View) -> Reading:
        assert isinstance(view, Keys)
        self._places |= {self._frame: place} if (place := centre(self.truth)) else {}
        if not self._bank.ids:
            return super()._read(view)
        bank = self._moved(view) if "true-place" in self._uses else self._bank
        reading = self.reader.read(view, bank)
        return self._without_far(reading, view) if "no-look-alikes" in self._uses else reading

    def _moved(self, view: Keys) -> MemoryBank:
        """The memory, its recent frames moved by whole coarse cells to where the objects are now."""
        bank = MemoryBank(self._bank.max_recent, self._bank.max_bytes)
        bank.space = self._bank.space
        now = self._places.get(self._frame)
        for entry in self._bank.entries:
            then = self._places.get(entry.frame)
            if entry.pinned or now is None or then is None:
                bank.write(entry)
            else:
                down, right = round((now[0] - then[0]) * view.rows), round((now[1] - then[1]) * view.columns)
                bank.write(rolled(entry, down, right))
        return bank

    def _without_far(self, reading: Reading, view: Keys) -> Reading:
        maps, masks = reading.maps.clone(), reading.masks.clone()
        for n, object_id in enumerate(reading.ids):
            there = shrink_mask(self.truth == object_id, view.height, view.width).numpy() > 0
            reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))  # four cells at stride 4 to each side
            far = torch.from_numpy(cv2.dilate(there.astype(np.uint8), reach) == 0)
            maps[0][far] += maps[n + 1][far]
            maps[n + 1][far], masks[n][far] = 0.0, 0.0
        return replace(reading, maps=maps, masks=masks)

    def _remember(self, features: Any, view: View, decision: Decision, given: dict[int, Mask]) -> None:
        if "true-previous" in self._uses:
            true = {i: shrink_mask(self.truth == i, view.height, view.width) for i in decision.masks}
            decision = replace(decision, masks=true)
        super()._remember(features, view, decision, given)


def centre(labels: Labels) -> tuple[float, float] | None:
    """Down and right, 0..1, of the middle of all objects; None where there is none."""
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return None
    return float(rows.mean()) / labels.shape[0], float(columns.mean()) / labels.shape[1]


def rolled(entry: Entry, down: int, right: int) -> Entry:
    """An entry of label propagation, its coarse cells moved; what leaves on one side comes back on the other."""
    assert entry.grid is not None
    h, w = entry.grid
    origin = torch.arange(h * w).view(h, w).roll((down, right), (0, 1)).flatten()  # new cell -> old cell

    def moved(rows: Tensor) -> Tensor:
        return rows.view(h * w, -1)[origin].view_as(rows)  # children of a coarse cell are rows side by side

    return replace(
        entry,
        keys=tuple(moved(k) for k in entry.keys),
        values={i: moved(v) for i, v in entry.values.items()},
    )


def reduced(truth: Labels, stride: int) -> Labels:
    """The truth as a map of cells at `stride` of the encoded picture says it, enlarged as trackers enlarge theirs."""
    height, width = encoded_size(truth.shape[0], truth.shape[1], PropagationConfig().pixels)
    ids = present_ids(truth)
    cells = [shrink_mask(truth == i, height // stride, width // stride).numpy() for i in ids]
    shares = np.stack([1 - np.sum(cells, axis=0), *cells]) if cells else np.ones((1, 1, 1))
    return label_map(shares.astype(np.float32), ids, truth.shape[0], truth.shape[1])


def track(sequence: AnnotatedSequence, variants: Sequence[str], out: Path) -> None:
    """Write the masks of every variant, all in one pass over the pictures."""
    readers: dict[str, LabelPropagation] = {}
    trackers: dict[str, ToldTracker] = {}
    for variant in variants:
        if variant not in STRIDES:
            config = replace(PropagationConfig(), pixels=SIZES.get(variant, PropagationConfig().pixels))
            size = variant if variant in SIZES else "usual"
            readers.setdefault(size, EncodesOnce(config))
            trackers[variant] = ToldTracker(readers[size], variant)
    prompts = first_masks(sequence, one_object=True)
    results: dict[str, dict[str, Labels]] = {variant: {} for variant in variants}
    for path in sequence_images(sequence):
        image, truth = read_image(path), true_labels(sequence, path.stem)
        for variant in variants:
            if variant in STRIDES:
                labels = reduced(truth, STRIDES[variant])
            else:
                trackers[variant].truth = truth
                labels = trackers[variant].step(image, prompts.get(path.stem, ())).labels
            results[variant][path.stem] = labels
    write_variants(results, sequence.name, out)


def write_variants(results: Mapping[str, Mapping[str, Labels]], sequence: str, out: Path) -> None:
    """Variant -> frame -> labels to ``out/<variant>/<sequence>/``; a folder that is there is complete."""
    for variant, frames in results.items():
        folder = out / variant / f".{sequence}"
        folder.mkdir(parents=True, exist_ok=True)
        for frame, labels in frames.items():
            write_labels(folder / f"{frame}.png", labels)
        folder.rename(out / variant / sequence)


def true_labels(sequence: AnnotatedSequence, frame: str) -> Labels:
    """Everything above 0 is object 1, as in DAVIS-2016."""
    return (read_labels(sequence.masks[frame]) > 0).astype(np.uint8)


def gains(found: Mapping[str, Scores]) -> Iterator[str]:
    """Markdown: J, F, J&F of every variant, and how much better that is than the tracker as it is."""
    yield "| variant | J | F | J&F | gain |"
    yield "|---|---|---|---|---|"
    base = found[AS_IS].j_and_f
    for variant, scores in found.items():
        J, F, both = scores.region.mean, scores.contour.mean, scores.j_and_f
        yield f"| {variant} | {J:.3f} | {F:.3f} | {both:.3f} | {both - base:+.3f} |"
    sizes = [found[v] for v in (AS_IS, *SIZES) if v in found]
    if len(sizes) > 1:
        best = [max(same, key=lambda s: s.j_and_f) for same in zip(*(s.sequences for s in sizes), strict=True)]
        J, F = (float(np.mean([getattr(s, key) for s in best])) for key in ("J", "F"))
        yield f"| best size of each sequence | {J:.3f} | {F:.3f} | {(J + F) / 2:.3f} | {(J + F) / 2 - base:+.3f} |"


def by_sequence(found: Mapping[str, Scores]) -> Iterator[str]:
    """Markdown: J / F of every sequence and variant."""
    yield "| J / F | " + " | ".join(found) + " |"
    yield "|---" * (len(found) + 1) + "|"
    for same in zip(*(s.sequences for s in found.values()), strict=True):
        yield f"| {same[0].sequence} | " + " | ".join(f"{s.J:.3f} / {s.F:.3f}".replace("0.", ".") for s in same) + " |"


def errors(layout: Layout, names: Sequence[str], folder: Path) -> Iterator[str]:
    """Markdown: where the pixels are that `as-is` has wrong, as shares of the union with the truth (they add up to
    1 - J, up to the mean over frames)."""
    yield f"| share of the union | within {NEAR} px of the true border | surplus further away | missing further away |"
    yield "|---|---|---|---|"
    rows = []
    for name in names:
        sequence = layout.sequence(name)
        shares = [
            _error_shares(true_labels(sequence, frame) > 0, read_labels(folder / name / f"{frame}.png") > 0)
            for frame in sequence.frames[1:-1]
        ]
        rows.append(np.mean(shares, axis=0))
        yield f"| {name} | " + " | ".join(f"{share:.3f}" for share in rows[-1]) + " |"
    yield "| **mean** | " + " | ".join(f"{share:.3f}" for share in np.mean(rows, axis=0)) + " |"


def _error_shares(truth: Mask, found: Mask) -> tuple[float, float, float]:
    """Of one frame: wrong pixels near the true border, surplus and missing ones further away, over the union."""
    inside, outside = (
        cv2.distanceTransform(np.pad(m, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        for m in (truth, ~truth)
    )
    near = (inside + outside <= NEAR) & truth.any()
    wrong, union = truth ^ found, max(int((truth | found).sum()), 1)
    return (
        float((wrong & near).sum()) / union,
        float((found & ~truth & ~near).sum()) / union,
        float((truth & ~found & ~near).sum()) / union,
    )


def main() -> None:
    variants = (AS_IS, *STRIDES, "true-previous", "true-place", "no-look-alikes", "all-three", *SIZES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with JPEGImages, Annotations and ImageSets")
    parser.add_argument("--set", default="dev", help="list of sequences in ImageSets, or a file")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for masks")
    parser.add_argument("--only", nargs="+", choices=variants, default=variants, help="variants that are run")
    arguments = parser.parse_args()
    tune_process(1)
    layout = open_layout(arguments.root)
    names = layout.set_names(arguments.set)
    for name in names:
        if missing := [v for v in arguments.only if not mask_files(arguments.out / v / name)]:
            track(layout.sequence(name), missing, arguments.out)
            print(f"{name}: {', '.join(missing)}", flush=True)
    there = [v for v in variants if all(mask_files(arguments.out / v / name) for name in names)]
    found = {v: score_predictions(arguments.out / v, layout, protocol="davis2016", names=names) for v in there}
    if AS_IS not in found:
        return
    print("", *gains(found), "", *by_sequence(found), "", *errors(layout, names, arguments.out / AS_IS), sep="\n")


if __name__ == "__main__":
    main()
