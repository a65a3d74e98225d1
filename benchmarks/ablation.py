"""What each part of `lite` gives: J and F with one part left out at a time.

    python benchmarks/ablation.py $VOS_DATA/davis -o out                     over ImageSets/dev.txt
    python benchmarks/ablation.py $VOS_DATA/davis -o out --only lite --weights runs/lite/refiner.safetensors

Masks of a variant go to ``out/<variant>/<sequence>/``; what is there already is not tracked again. No variant is
trained anew: the net sees what it would see if a part were not there.

    lite           as people have it
    one-version    memory holds masks as they were read alone; the sharp ones are shown and forgotten
    sharp-only     memory holds the sharp masks alone
    no-appearance  nothing is known of how the objects look
    stride-4       the answer averaged to cells of stride 4
    propagate      no net at all, on pictures as large as those of lite
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from oracle import EncodesOnce, by_sequence, write_variants

from seem_core.refiner import BorderRefiner
from seem_core.refiner_weights import load_refiner, shipped_weights
from trackers.base import Labels
from trackers.dense import Reading
from trackers.memory_bank import MemoryBank
from trackers.propagate import DenseTracker
from trackers.propagation import LabelPropagation, as_reading
from trackers.refined import LITE, RefinedPropagation, RefinedView
from vos.benchmarks.davis_prompts import first_masks, sequence_images
from vos.benchmarks.layouts import AnnotatedSequence, mask_files, open_layout
from vos.benchmarks.scoring import score_predictions
from vos.device import tune_process
from vos.images import read_image

VARIANTS = ("lite", "one-version", "sharp-only", "no-appearance", "stride-4", "propagate")


class Without(RefinedPropagation):
    """The reader of `lite` without one of its parts."""

    def __init__(self, propagation: LabelPropagation, refiner: BorderRefiner, variant: str) -> None:
        super().__init__(propagation, refiner)
        self._variant = variant

    @torch.inference_mode()
    def read(self, view: RefinedView, bank: MemoryBank) -> Reading:
        if self._variant == "no-appearance":
            bank = without_looks(bank)
        reading = super().read(view, bank)
        assert reading.versions is not None
        if self._variant == "one-version":
            return replace(reading, versions=reading.versions[:, :1])
        if self._variant == "sharp-only":
            return replace(reading, versions=reading.versions[:, 1:])
        if self._variant == "stride-4":
            small = as_reading(reading.ids, reading.versions[:, 1])
            return replace(reading, maps=small.maps, scores=small.scores)
        return reading


def without_looks(bank: MemoryBank) -> MemoryBank:
    """The same memory, which does not know what the objects look like."""
    blind = MemoryBank(bank.max_recent, bank.max_bytes)
    held = bank.snapshot()
    blind.restore(replace(held, pinned=tuple(replace(e, looks={}) for e in held.pinned)))
    return blind


def track(sequence: AnnotatedSequence, variants: list[str], weights: Path, out: Path) -> None:
    """Write the masks of every variant, all in one pass over the pictures."""
    shared = EncodesOnce(LITE)
    refiner = load_refiner(weights)
    trackers = {
        variant: DenseTracker(shared if variant == "propagate" else Without(shared, refiner, variant))
        for variant in variants
    }
    prompts = first_masks(sequence, one_object=True)
    results: dict[str, dict[str, Labels]] = {variant: {} for variant in variants}
    for path in sequence_images(sequence):
        image = read_image(path)
        for variant, tracker in trackers.items():
            results[variant][path.stem] = tracker.step(image, prompts.get(path.stem, ())).labels
    write_variants(results, sequence.name, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with JPEGImages, Annotations and ImageSets")
    parser.add_argument("--set", default="dev", help="list of sequences in ImageSets, or a file")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for masks")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS, help="variants that are run")
    parser.add_argument("--weights", type=Path, help="of the refiner, in place of those that ship")
    arguments = parser.parse_args()
    tune_process(1)
    layout = open_layout(arguments.root)
    names = layout.set_names(arguments.set)
    for name in names:
        if missing := [v for v in arguments.only if not mask_files(arguments.out / v / name)]:
            track(layout.sequence(name), missing, arguments.weights or shipped_weights(), arguments.out)
            print(f"{name}: {', '.join(missing)}", flush=True)
    there = [v for v in arguments.only if all(mask_files(arguments.out / v / name) for name in names)]
    found = {v: score_predictions(arguments.out / v, layout, protocol="davis2016", names=names) for v in there}
    print(*by_sequence(found), sep="\n")
    print("| mean J&F | " + " | ".join(f"{s.j_and_f:.3f}" for s in found.values()) + " |")


if __name__ == "__main__":
    main()
