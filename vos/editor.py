"""Masks of a video made by correcting them: `Editor` keeps prompts and results in a folder and tracks what changed.

editor = Editor("clip.mp4", "edit")
editor.add_prompt(0, MaskPrompt(mask))
for result in editor.propagate("both"): ...
(frame,) = editor.suggest(1)
editor.add_prompt(frame, PointPrompt(x, y, positive=False))
for result in editor.propagate(): ...                          what the new prompt can affect, and no more
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from seem_core.errors import InputError, PromptError, VideoError
from seem_core.prompts import Prompt
from trackers.base import ObjectMasks, Tracker
from vos.backwards import check_seekable
from vos.directions import DIRECTIONS, Direction
from vos.edit_history import EditHistory
from vos.edit_plan import EditPlan, PromptNote
from vos.editor_folder import EditorFolder, begin_state, find_state, read_state
from vos.frames import Frame, FrameResult, VideoInfo, VideoSource
from vos.pass_inputs import digest_of
from vos.passes import HandOver, check_backward, no_objects
from vos.pipeline import TrackOptions, make_tracker, open_source, settle
from vos.prompt_file import write_prompts
from vos.prompt_preview import preview_prompts
from vos.prompts import Forget, FramePrompt, Seconds, TimedPrompt, frame_at, place
from vos.stored_pass import StoredPass
from vos.suggestions import choose, doubt
from vos.tracker_states import SavedState
from vos.working_size import WorkingSize

MakeTracker = Callable[[], Tracker]

# options that do not change which masks come out, or of which the plan takes care
_NOT_SETTING = ("device", "threads", "direction", "mask_format")


@dataclass(frozen=True)
class EditorPrompt:
    """A prompt that applies, with the id that `Editor.add_prompt` gave it and its frame."""

    id: int
    frame: int
    prompt: Prompt | Forget


class Editor:
    """A video, its prompts, and the masks that follow from them, in a folder on disk.

    video    a video file, a folder of images, or an open `VideoSource` (which stays open)
    folder   where everything is kept; one that is there is gone on with
    tracker  a name, or a function that makes a fresh `Tracker` (the same whenever the folder is opened); by default
             what ``options`` name
    options  how to track, see `TrackOptions`; by default what the folder was begun with
    states   tracker states kept for each pass (tens of MB each); the more, the less is tracked again after a change

    Results are those of `vos.pipeline.track` with the same prompts, whatever was changed, undone and stopped on the
    way. Everything but decoded frames and a tracker's memory lies on disk, so memory does not grow with the length of
    the video or the number of edits. A change is on disk when its method returns; a killed process loses the frames
    since the last saved state of the tracker. One thread may run `propagate` while others read masks and change
    prompts; the changes then concern the next `propagate`.

    Raises what opening a video raises; InputError for a folder of another video or with a damaged state, OutputError
    where the folder cannot be written or another editor is at work in it.
    """

    def __init__(
        self,
        video: str | Path | VideoSource,
        folder: str | PathLike[str],
        *,
        tracker: str | MakeTracker | None = None,
        options: TrackOptions | None = None,
        states: int = 8,
    ) -> None:
        self._lock = threading.RLock()  # held while the state changes
        self._running = threading.Lock()  # held by propagate
        self._idle: list[tuple[Tracker, dict[str, Any]]] = []  # trackers at rest with their fresh states
        self._notes: dict[int, PromptNote] = {}
        self._doubts: dict[int, tuple[tuple[str | None, ...], float]] = {}  # frame -> what it was judged from, doubt
        self._owned = isinstance(video, (str, Path))
        found = find_state(Path(folder))
        options = options or (TrackOptions() if found is None else found.options)
        if tracker is None or isinstance(tracker, str):
            options = options if tracker is None else replace(options, tracker=tracker)
            tracker = None
        if options.memory is not None or options.save_memory is not None:
            raise InputError("an editor neither begins with a saved memory nor saves one; leave memory out")
        self._make: MakeTracker = tracker or (lambda: make_tracker(settle(options)))
        self._setting = _setting(options, tracker)
        self._video = open_source(video, options)
        self._folder: EditorFolder | None = None
        try:
            info, frames = self._video.info, len(self._video)
            self._tracked = range(frames)[options.start : options.end : options.stride_at(info.rate)]
            if not self._tracked:
                raise InputError(f"start {options.start} is past the end; the video has frames 0..{frames - 1}")
            self._size = WorkingSize.of((info.height, info.width), options.max_side)
            self._folder = EditorFolder(Path(folder), (info.height, info.width), states)
            self._state = begin_state(info, options, find_state(Path(folder)))  # again: now nobody else can change it
            self._files.write(self._state)
        except BaseException:
            self.close()
            raise

    @classmethod
    def reopen(cls, folder: str | PathLike[str], *, states: int = 8) -> Editor:
        """Go on with the video and the options that ``folder`` was begun with. Raises InputError if there is none."""
        return cls(read_state(Path(folder)).video, folder, states=states)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = self._state
        return f"Editor({state.video.name}, {len(state.history.numbers)} prompts, {len(self._tracked)} frames)"

    def close(self) -> None:
        """Close the video and give the folder free. A `propagate` that still runs has to be closed first."""
        if self._owned:
            self._video.close()
        if self._folder is not None:
            self._folder.close()
            self._folder = None
        self._idle.clear()

    @property
    def info(self) -> VideoInfo:
        return self._video.info

    @property
    def tracked(self) -> range:
        """Frames of the video that are tracked."""
        return self._tracked

    @property
    def options(self) -> TrackOptions:
        """How it tracks; ``direction`` is the one that was used last."""
        return self._state.options

    @property
    def gaps(self) -> tuple[int, ...]:
        """Tracked frames that could not be decoded, as far as they were tried."""
        return self._state.gaps

    # ---- prompts

    @property
    def prompts(self) -> tuple[EditorPrompt, ...]:
        """The prompts that apply, in the order in which they were given; they are read from disk."""
        return tuple(self._prompt(number) for number in self._state.history.numbers)

    @property
    def can_undo(self) -> bool:
        return bool(self._state.history.done)

    @property
    def can_redo(self) -> bool:
        return bool(self._state.history.undone)

    def add_prompt(self, frame: int | Seconds, prompt: Prompt | Forget) -> int:
        """Give a prompt on a frame of the video; returns its id. On an object that is there it is a correction.

        Raises PromptError or MaskError, and changes nothing, where it does not fit the video, the frame or the others.
        """
        with self._lock:
            when = frame_at(frame, self._video, self._tracked)
            item = place([TimedPrompt(prompt, when)], self._video, self._tracked, known=[prompt.object_id])[0]
            self._check_decodable(when)
            self._check(also=[item])
            history = self._state.history.add()
            self._files.prompts.put(history.highest, item)
            self._change(history)
            return history.highest

    def remove_prompt(self, prompt_id: int) -> None:
        """Take a prompt back. Raises PromptError where there is none, or the others make no sense without it."""
        with self._lock:
            if prompt_id not in self._state.history.numbers:
                raise PromptError(f"there is no prompt {prompt_id}; there are {list(self._state.history.numbers)}")
            self._check(without=prompt_id)
            self._change(self._state.history.remove(prompt_id))

    def undo(self) -> None:
        """Take the last `add_prompt` or `remove_prompt` back. Raises InputError where there is none."""
        with self._lock:
            if not self.can_undo:
                raise InputError("there is nothing to undo")
            self._change(self._state.history.undo())

    def redo(self) -> None:
        """Do again what was undone last. Raises InputError where there is none."""
        with self._lock:
            if not self.can_redo:
                raise InputError("there is nothing to redo")
            self._change(self._state.history.redo())

    def save_prompts(self, path: str | PathLike[str]) -> None:
        """Write the prompts that apply as a file for ``vos track --prompts``. Raises OutputError, DiskFullError."""
        write_prompts(path, [FramePrompt(p.frame, p.prompt) for p in self.prompts], video=self._state.video)

    # ---- results

    @property
    def stale(self) -> tuple[int, ...]:
        """Frames that `propagate` would track in the direction that was used last."""
        plan = self._plan()
        return tuple(sorted(plan.stale(self._files.forward, self._files.backward, self._state.gaps)))

    def masks(self, frame: int) -> ObjectMasks | None:
        """The newest result of a frame at the video's size, also one that does not hold any more (`stale`).

        None where none was made yet. Raises PromptError for a frame that is not tracked.
        """
        plan = self._plan()
        frame = frame_at(frame, self._video, self._tracked)
        found = self._found(plan, frame)
        return None if found is None else self._size.back(found)

    def results(self) -> Iterator[FrameResult]:
        """Every tracked frame that can be decoded, in ascending order, with what `masks` says of it."""
        tracked, (height, width) = self._tracked, self._size.source
        for frame in self._video.frames(tracked.start, tracked.stop, tracked.step):
            yield FrameResult(frame, self.masks(frame.index) or no_objects(height, width))

    def propagate(self, direction: Direction | None = None) -> Generator[FrameResult, None, None]:
        """Track the frames whose result a change can affect, and yield each as it is done.

        With "both" the forward pass comes first, then the backward pass: a frame that both have to track comes twice,
        and the second time it is merged (`vos.merging`). Without a direction, that of the last time (at first, that of
        the options). The generator may be closed at any time; the next one goes on from there.

        Raises at the first step: PromptError where nothing says what to follow, InputError for an unknown direction or
        while another `propagate` runs, VideoError where going backward is not possible.
        """
        if not self._running.acquire(blocking=False):
            raise InputError("the masks are being propagated already; wait for that, or close its generator")
        try:
            plan = self._begin(direction)
            if plan.direction != "backward":
                yield from self._run_forward(plan)
            if plan.direction != "forward":
                yield from self._run_backward(plan)
        finally:
            self._running.release()

    def preview(self, frame: int) -> ObjectMasks:
        """What the prompts of one frame say by themselves, without tracking: their objects on that frame.

        Marks that correct an object start from its newest mask on the frame. Raises PromptError where the frame has no
        prompts, or marks that only say what an object is not, and it has no mask there yet.
        """
        plan = self._plan()
        numbers = plan.prompts.get(frame_at(frame, self._video, self._tracked), ())
        if not numbers:
            raise PromptError(f"frame {frame} has no prompts; add one to see what it gives")
        given = [self._given(number) for number in numbers]
        image = self._size.image(self._video[frame].image)
        with self._tracker(None) as tracker:
            return self._size.back(preview_prompts(tracker, image, given, self._found(plan, frame), frame))

    def suggest(self, n: int = 1) -> tuple[int, ...]:
        """At most ``n`` frames that are most worth a correction, the best first; see `vos.suggestions`.

        Judged by scores, and after "both" by how far the two passes agree, on the frames that have results. Raises
        ValueError for ``n`` below 1.
        """
        if n < 1:
            raise ValueError(f"suggest at least one frame, not {n}")
        plan = self._plan()
        doubts = {frame: self._doubt(plan, frame) for frame in self._tracked if frame not in plan.prompts}
        return choose({f: d for f, d in doubts.items() if d is not None}, tuple(plan.prompts), n)

    # ---- the passes

    def _begin(self, direction: Direction | None) -> EditPlan:
        """Check that tracking is possible, and note the direction; the plan is that of this moment."""
        with self._lock:
            direction = direction or self._state.options.direction
            if direction not in DIRECTIONS:
                raise InputError(f"there is no direction {direction!r}; use {', '.join(DIRECTIONS)}")
            if direction != "forward":
                check_seekable(self._video, f"direction {direction}")
            if direction != self._state.options.direction:
                self._state = replace(self._state, options=replace(self._state.options, direction=direction))
                self._files.write(self._state)
            plan = self._plan()
            if not plan.prompts:
                raise PromptError("nothing says what to follow; add a prompt first")
            if direction == "backward":
                given = {frame: [self._given(n) for n in numbers] for frame, numbers in plan.prompts.items()}
                check_backward(given, plan.backward.ends)
            return plan

    def _run_forward(self, plan: EditPlan) -> Iterator[FrameResult]:
        def prompts_at(frame: int) -> Sequence[Prompt]:
            return [self._given(number) for number in plan.prompts.get(frame, ())]

        back = self._files.backward
        for frame, masks in self._run(self._files.forward, plan, prompts_at, is_backward=False):
            index = frame.index
            other = back.get(plan.backward, index) if back.holds(plan.backward, index) else None
            yield FrameResult(frame, self._size.back(plan.merge(masks, other, index) or masks))

    def _run_backward(self, plan: EditPlan) -> Iterator[FrameResult]:
        ahead, is_told = self._files.forward, plan.direction == "both"

        def prompts_at(frame: int) -> Sequence[Prompt]:
            given = [self._given(number) for number in plan.prompts.get(frame, ())]
            found = ahead.get(plan.forward, frame) if is_told and given else None
            return given if found is None else HandOver.of(given, found).told(found)

        for frame, masks in self._run(self._files.backward, plan, prompts_at, is_backward=True):
            other = ahead.get(plan.forward, frame.index) if is_told else None
            yield FrameResult(frame, self._size.back(plan.merge(other, masks, frame.index) or masks))

    def _run(
        self, stored: StoredPass, plan: EditPlan, prompts_at: Callable[[int], Sequence[Prompt]], *, is_backward: bool
    ) -> Iterator[tuple[Frame, ObjectMasks]]:
        """One pass, where it has to be done anew; notes the frames that cannot be decoded."""
        inputs = plan.backward if is_backward else plan.forward
        with ExitStack() as stack:

            def restore(saved: SavedState | None) -> Tracker:
                return stack.enter_context(self._tracker(saved))

            run = stored.run(inputs, self._video, self._size, prompts_at, restore, self._state.gaps)
            with closing(run) as steps:  # before the tracker is given back
                yield from steps
        gaps = {*self._state.gaps, *(frame for frame in self._video.gaps if frame in self._tracked)}
        if gaps - {*self._state.gaps}:
            with self._lock:
                self._state = replace(self._state, gaps=tuple(sorted(gaps)))
                self._files.write(self._state)

    @contextmanager
    def _tracker(self, saved: SavedState | None) -> Iterator[Tracker]:
        """A tracker in a saved state, or a fresh one; made once and used again, as making one loads its model."""
        with self._lock:
            rested = self._idle.pop() if self._idle else None
        tracker, fresh = rested or _with_state(self._make())
        tracker.load_state_dict(fresh if saved is None else saved.state)
        try:
            yield tracker
        finally:
            with self._lock:
                self._idle.append((tracker, fresh))

    def _opinions(self, plan: EditPlan, frame: int) -> tuple[ObjectMasks | None, ObjectMasks | None]:
        """The newest results of a frame by the passes that count, forward and backward, both of one size."""
        files = self._files
        ahead = files.forward.get(plan.forward, frame) if plan.direction != "backward" else None
        back = files.backward.get(plan.backward, frame) if plan.direction != "forward" else None
        if ahead is not None and back is not None and ahead.labels.shape != back.labels.shape:
            return ahead, None  # max_side was changed, and one of the two is older than that
        return ahead, back

    def _found(self, plan: EditPlan, frame: int) -> ObjectMasks | None:
        """The newest result of a frame, of the size that was worked on."""
        return plan.merge(*self._opinions(plan, frame), frame)

    def _doubt(self, plan: EditPlan, frame: int) -> float | None:
        """How doubtful a frame's result is; None where there is none."""
        ahead, back = self._files.forward.results, self._files.backward.results
        made_from = (plan.direction, ahead.made_from(frame), back.made_from(frame))
        if frame not in self._doubts or self._doubts[frame][0] != made_from:
            one, other = self._opinions(plan, frame)
            merged = plan.merge(one, other, frame)
            if merged is None:
                return None
            self._doubts[frame] = (made_from, doubt(one, other, merged, plan.anchors, frame))
        return self._doubts[frame][1]

    # ---- the state

    @property
    def _files(self) -> EditorFolder:
        if self._folder is None:
            raise ValueError("the editor is closed")
        return self._folder

    def _plan(self) -> EditPlan:
        with self._lock:
            state = self._state
            notes = [self._note(number) for number in state.history.numbers]
        return EditPlan.of(state.options.direction, self._tracked, self._setting, notes)

    def _note(self, number: int) -> PromptNote:
        if number not in self._notes:
            self._notes[number] = PromptNote.of(number, self._files.prompts.get(number))
        return self._notes[number]

    def _prompt(self, number: int) -> EditorPrompt:
        item = self._files.prompts.get(number)
        return EditorPrompt(number, item.frame, item.prompt)

    def _given(self, number: int) -> Prompt:
        """A prompt in pixels of the working image."""
        prompt = self._files.prompts.get(number).prompt
        if isinstance(prompt, Forget):
            raise TypeError("an end is nothing to give to a tracker")
        return self._size.prompt(prompt)

    def _check(self, *, without: int | None = None, also: Sequence[FramePrompt] = ()) -> None:
        """Raise PromptError where the prompts would not make sense together."""
        notes = [self._note(number) for number in self._state.history.numbers if number != without]
        items = [*(note.stand_in(self._size.source) for note in notes), *also]
        if items:
            place(items, self._video, self._tracked)

    def _check_decodable(self, frame: int) -> None:
        try:
            self._video[frame]
        except VideoError as error:
            raise PromptError(f"frame {frame} cannot be decoded; put the prompt on another frame") from error

    def _change(self, history: EditHistory) -> None:
        """Bring a change to the disk, then make it."""
        state = replace(self._state, history=history)
        self._files.write(state)
        self._state = state
        self._notes = {number: note for number, note in self._notes.items() if number in history.reachable}


def _with_state(tracker: Tracker) -> tuple[Tracker, dict[str, Any]]:
    return tracker, tracker.state_dict()


def _setting(options: TrackOptions, tracker: MakeTracker | None) -> str:
    """What decides about the masks besides the prompts, as a digest."""
    values = {name: value for name, value in asdict(options).items() if name not in _NOT_SETTING}
    if tracker is not None:
        values["tracker"] = None
    return digest_of(f"{name}={value!r}" for name, value in sorted(values.items()))
