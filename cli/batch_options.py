"""Options of ``vos batch`` that no other command has."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class EngineChoice(StrEnum):
    """Where videos are tracked: worker processes of this machine, or a Ray cluster (needs the extra of that name)."""

    local = "local"
    ray = "ray"


class LogFormat(StrEnum):
    """How progress and messages are written to standard error."""

    text = "text"
    json = "json"


Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help="Folders with clip.mp4 (or images in clip/) and clip.png or clip.json; videos; tables (.csv, .jsonl);"
        " lists (.txt).",
    ),
]
BatchOut = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Gets one folder of results per video, and the ledger.")
]
PromptsFolder = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="DIR", help="Folder of NAME.png and NAME.json.", show_default="beside each video"
    ),
]
PlanOnly = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Print the plan with frames, time, memory and disk, and do nothing.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-w", min=1, help="Videos at a time.", show_default="one per core, less for a GPU"),
]
WorkerThreads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads of each worker.", show_default="cores / workers"),
]
UseEngine = Annotated[EngineChoice, typer.Option("--engine", help="This machine, or a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT|auto", help="The Ray cluster.", show_default="one is started here"),
]
Tries = Annotated[
    int, typer.Option("--tries", min=1, help="Runs of a video that may end by a crash or standstill of its worker.")
]
Stall = Annotated[
    float,
    typer.Option("--stall", min=0, help="Seconds without a frame after which a video is given up; 0: never."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory", metavar="SIZE", help="Memory that one video may take, such as 6G.", show_default="its share"
    ),
]
MaxDisk = Annotated[
    str | None,
    typer.Option("--max-disk", metavar="SIZE", help="What all results may take, such as 500G.", show_default=False),
]
Report = Annotated[
    bool, typer.Option("--report", help="Write report.html: one page with a table, pictures and scores.")
]
Truth = Annotated[
    Path | None,
    typer.Option(
        "--truth", metavar="DIR", help="Ground truth, a folder of masks per video: --report, with scores.",
        show_default=False,
    ),
]  # fmt: skip
UseLogFormat = Annotated[LogFormat, typer.Option("--log-format", help="text, or one JSON object per line.")]
