"""A pass whose results and tracker states lie on disk, and that does again only what has changed: `StoredPass`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from pathlib import Path

from trackers.base import ObjectMasks, Tracker
from vos.backwards import backwards
from vos.frames import Frame, VideoSource
from vos.mask_spool import MaskSpool
from vos.pass_inputs import PassInputs
from vos.passes import PromptsAt, run_pass
from vos.prefetch import prefetch
from vos.tracker_states import SavedState, TrackerStates
from vos.working_size import WorkingSize
from vos.writing import refuse_link

FRAMES_AHEAD = 4  # decoded frames that wait for the tracker
LEAST_SPACING = 8  # tracked frames between two saved states, besides those before prompts

Restore = Callable[[SavedState | None], Tracker]  # a tracker in a saved state; with None a fresh one


class StoredPass:
    """Results of one pass over a video, in ``folder``.

    What was told to the pass changes as the user edits; a result holds as long as it was made from the same
    (`PassInputs.made_from`). A pass that was stopped, or whose process was killed, goes on from the last saved state.

    states  how many tracker states are kept; the more, the less is tracked again after a change
    """

    def __init__(self, folder: Path, states: int = 8) -> None:
        refuse_link(folder)
        self.results = MaskSpool(folder / "masks")
        self.states = TrackerStates(folder / "states", states)

    def get(self, inputs: PassInputs, frame: int) -> ObjectMasks | None:
        """The newest result of a frame, of the working size, whether it still holds or not; None where there is none.

        A frame to which the pass no longer comes has none.
        """
        return self.results.get(frame) if frame in inputs.frames else None

    def holds(self, inputs: PassInputs, frame: int) -> bool:
        """Whether a result is there and still holds, or the pass does not come to the frame."""
        return self.results.made_from(frame) == inputs.made_from(frame) or frame not in inputs.frames

    def missing(self, inputs: PassInputs, gaps: Collection[int] = ()) -> list[int]:
        """Frames of the pass without a result that holds, in the order of the pass; ``gaps`` cannot be decoded."""
        frames = reversed(inputs.frames) if inputs.backward else inputs.frames
        return [frame for frame in frames if frame not in gaps and not self.holds(inputs, frame)]

    def run(
        self,
        inputs: PassInputs,
        source: VideoSource,
        size: WorkingSize,
        prompts_at: PromptsAt,
        restore: Restore,
        gaps: Collection[int] = (),
    ) -> Generator[tuple[Frame, ObjectMasks], None, None]:
        """Track until every result holds; yields what was made anew, in the order of the pass.

        May be closed at any time: the tracker's state is kept then.
        """
        missing = self.missing(inputs, gaps)
        if not missing:
            return
        saved = self.states.nearest(missing[0], inputs.made_from, backward=inputs.backward)
        resumed, known = (None, ()) if saved is None else (saved.frame, saved.ids)
        tracker = restore(saved)
        spacing = max(LEAST_SPACING, -(-len(inputs.frames) // self.states.most)) * inputs.tracked.step
        kept = resumed if resumed is not None else missing[0]
        with prefetch(_read(source, inputs, resumed, missing[-1]), FRAMES_AHEAD) as frames:
            ends = inputs.ends_after(resumed)
            steps = run_pass(frames, tracker, prompts_at, ends, size, backward=inputs.backward, known=known)
            with closing(steps):
                for frame, masks in steps:
                    index = frame.index
                    is_new = not self.holds(inputs, index)
                    if is_new:
                        self.results.put(index, masks, inputs.made_from(index) or "")
                    if abs(index - kept) >= spacing or _following(inputs, index) in inputs.told:
                        self._keep(inputs, index, masks, tracker)
                        kept = index
                    try:
                        if is_new:
                            yield frame, masks
                    except GeneratorExit:
                        if kept != index:
                            self._keep(inputs, index, masks, tracker)
                        raise

    def _keep(self, inputs: PassInputs, frame: int, masks: ObjectMasks, tracker: Tracker) -> None:
        text = inputs.made_from(frame)
        if text is not None:
            saved = SavedState(frame, masks.ids, tracker.state_dict())
            self.states.save(saved, text, lambda place, other: inputs.made_from(place) == other)


def _following(inputs: PassInputs, frame: int) -> int:
    """The tracked frame that the pass comes to after ``frame``."""
    return frame - inputs.tracked.step if inputs.backward else frame + inputs.tracked.step


def _read(source: VideoSource, inputs: PassInputs, resumed: int | None, last: int) -> Iterator[Frame]:
    """The frames of the pass after ``resumed`` (all of them with None) up to ``last``, in the order of the pass."""
    frames = inputs.frames
    if inputs.backward:
        end = len(frames) if resumed is None else frames.index(resumed)
        return backwards(source, frames[frames.index(last) : end])
    begin = 0 if resumed is None else frames.index(resumed) + 1
    part = frames[begin : frames.index(last) + 1]
    return source.frames(part.start, part.stop, part.step)
