"""What an editor has made, as a results folder like that of ``vos track``: `export_results`."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path

from vos.editor import Editor
from vos.output import InputRecord, ResultFolder, RunRecord, check_inputs
from vos.prompt_writing import write_document
from vos.prompts import FramePrompt


def export_results(editor: Editor, out: str | PathLike[str], *, overwrite: bool = False) -> RunRecord:
    """Write the newest masks of every tracked frame, frames.jsonl and run.json into ``out``; `vos.render` draws them.

    Frames whose masks do not hold any more (`Editor.stale`) are written as they are, with a warning in run.json. Raises
    what `vos.output.ResultFolder` raises, InputError where the video cannot be read for its hash.
    """
    info, tracked, stale = editor.info, editor.tracked, editor.stale
    check_inputs(Path(out), [info.path])
    items = [FramePrompt(prompt.frame, prompt.prompt) for prompt in editor.prompts]
    warning = f"{len(stale)} frames were written with masks from before the last change of the prompts; propagate first"
    record = RunRecord(
        video=replace(info, path=Path(os.path.abspath(info.path))),
        tracked=(tracked.start, tracked.stop, tracked.step),
        ids=tuple(sorted({item.prompt.object_id for item in items})),
        inputs=(InputRecord.of("video", info.path),),
        options={**asdict(editor.options), "prompts": write_document(items, video=info.path)},
        warnings=(warning,) if stale else (),
    )
    with ResultFolder.create(out, overwrite=overwrite) as folder:
        folder.begin(record)
        for result in editor.results():
            folder.add(result)
        return folder.finish("done", gaps=editor.gaps)
