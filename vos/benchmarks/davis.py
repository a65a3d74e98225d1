"""`run_davis`: trackers over a DAVIS layout, one process each, their masks written, their scores side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seem_core.errors import InputError, OutputError
from vos.benchmarks.davis_prompts import MASK_PROMPT, PromptChoice, counted_beside, sequence_images
from vos.benchmarks.isolated import PeakMemory, run_isolated
from vos.benchmarks.kept_scores import SETTINGS, kept_scores, settings_of
from vos.benchmarks.layouts import AnnotatedSequence, Layout, mask_files
from vos.benchmarks.protocols import PROTOCOLS, Counted, Protocol, ProtocolName
from vos.benchmarks.scores import Scores
from vos.benchmarks.scoring import score_predictions
from vos.benchmarks.sequence_tracking import (
    BuildTracker,
    Named,
    SequenceTime,
    TrackingRequest,
    build_named,
    track_sequences,
)
from vos.label_files import write_whole

Progress = Callable[[str, int, int], None]  # what is going on, frames done, frames in all
SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class TrackerRun:
    """One tracker's masks (below ``folder``), times, memory and scores, prompted as ``prompt`` says."""

    tracker: str
    folder: Path
    times: tuple[SequenceTime, ...]
    peak: PeakMemory
    scores: Scores
    prompt: PromptChoice = MASK_PROMPT

    @property
    def rate(self) -> float:
        """Frames per second over all sequences, from image file to mask file."""
        return sum(t.frames for t in self.times) / max(sum(t.seconds for t in self.times), 1e-9)

    def to_json(self, *, per_frame: bool = False) -> dict[str, Any]:
        """`Scores.to_json`, with prompts, speed and memory."""
        return {
            **self.scores.to_json(per_frame=per_frame),
            "sequences": {
                s.sequence: {"J": s.J, "F": s.F, "J&F": s.j_and_f, "frames": t.frames, "seconds": t.seconds}
                for s, t in zip(self.scores.sequences, self.times, strict=True)
            },
            "prompt": self.prompt.label,
            "seed": self.prompt.seed if self.prompt.is_random else None,
            "frames_per_second": self.rate,
            "peak_memory_bytes": self.peak.resident,
            "peak_device_memory_bytes": self.peak.device,
            "masks": str(self.folder),
        }


def run_davis(
    layout: Layout,
    names: Sequence[str],
    trackers: Sequence[str],
    out: Path,
    *,
    protocol: ProtocolName = "strict",
    prompt: PromptChoice = MASK_PROMPT,
    device: str = "cpu",
    threads: int | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    build: BuildTracker = build_named,
    progress: Progress | None = None,
) -> tuple[TrackerRun, ...]:
    """Run ``trackers`` over the sequences ``names`` and score them.

    Every object is prompted on the frame where it is annotated for the first time (protocol davis2017: on the first
    frame only), with its mask or as ``prompt`` says. Masks of all frames, with the images' names, go to
    ``out/<tracker>/<sequence>/``, all figures to ``out/scores.json``, beside those of other trackers that were run
    with the same settings. A tracker runs in a process of its own, so that its peak memory is its own.

    prompt with a reference: only objects on that frame are prompted and count; see `davis_prompts.counted_beside`
    jobs   processes that score; above 1, as for everything here, the calling script needs ``if __name__ == ...``
    build  called in that process with a name and a device, once for each sequence; it must be a module's function, or
           `Named`, which gives trackers a SEEM model

    Raises DatasetError and MaskError for what is wrong with the data, OutputError where masks or scores of other
    settings are already there (without ``overwrite``) or cannot be written, InputError for an unknown tracker, or for a
    reference in protocol davis2017, which has no rule for it.
    """
    sequences = tuple(layout.sequence(name) for name in names)
    _check_trackers(trackers, build)
    total = sum(len(sequence_images(sequence)) for sequence in sequences)
    rules, report = PROTOCOLS[protocol], progress or (lambda what, done, total: None)
    counted = _counted(sequences, prompt, rules)
    for tracker in trackers:
        _check_free(out / tracker, sequences, overwrite)
    settings = settings_of(layout, names, protocol, prompt)
    figures = kept_scores(out / SCORES_FILE, settings, overwrite=overwrite)
    made_from = asdict(build) if isinstance(build, Named) else {}
    runs = []
    for tracker in trackers:
        request = TrackingRequest(
            tracker, sequences, out / tracker, device, threads, rules.one_object, not rules.ids_of_first_frame,
            build, prompt,
        )  # fmt: skip
        times, peak = run_isolated(track_sequences, request, on_message=_counter(tracker, total, report))
        scores = score_predictions(
            out / tracker, layout, protocol=protocol, names=names, jobs=jobs, counted=counted
        )  # fmt: skip
        run = TrackerRun(tracker, out / tracker, times, peak, scores, prompt)
        runs.append(run)
        figures[tracker] = {**run.to_json(per_frame=True), **made_from, SETTINGS: settings}
        write_whole(out / SCORES_FILE, json.dumps(figures, indent=1).encode())  # a later tracker may fail
    return tuple(runs)


def _counted(
    sequences: Sequence[AnnotatedSequence], prompt: PromptChoice, protocol: Protocol
) -> dict[str, Counted] | None:
    if prompt.reference is None:
        return None
    if protocol.ids_of_first_frame:
        raise InputError(f"protocol {protocol.name} has no rule for --prompt {prompt.label}; use strict")
    return {s.name: counted_beside(s, prompt.reference, protocol) for s in sequences}


def _counter(tracker: str, total: int, report: Progress) -> Callable[[int], None]:
    done = 0

    def count(frames: int) -> None:
        nonlocal done
        done += frames
        report(tracker, done, total)

    return count


def _check_trackers(trackers: Sequence[str], build: BuildTracker) -> None:
    from trackers import TRACKERS

    if len(set(trackers)) != len(trackers) or not trackers:
        raise InputError("give each tracker once, and at least one")
    if not isinstance(build, Named):
        return
    if unknown := [name for name in trackers if name not in TRACKERS]:
        raise InputError(f"unknown tracker {unknown[0]!r}; there are {', '.join(TRACKERS)}")
    if build.model is None and (needing := [name for name in trackers if TRACKERS[name].model == "needed"]):
        raise InputError(
            f"tracker {needing[0]} needs a SEEM model; give --model with a file or a name (see vos models)"
        )
    if build.model is not None and all(TRACKERS[name].model == "unused" for name in trackers):
        raise InputError(f"no tracker of {', '.join(trackers)} has a use for a model; leave out --model")
    if build.fast and not any(TRACKERS[name].fast for name in trackers):
        raise InputError(f"no tracker of {', '.join(trackers)} has a fast setting; leave out --fast")


def _check_free(folder: Path, sequences: Sequence[AnnotatedSequence], overwrite: bool) -> None:
    taken = [sequence.name for sequence in sequences if mask_files(folder / sequence.name)]
    if taken and not overwrite:
        raise OutputError(f"{folder / taken[0]} already holds masks; use --overwrite, or another folder with -o")
