"""``vos retry``: failed videos of a batch wait again."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.console import emit
from cli.status import folder_of, videos
from vos.wording import printable, some


def retry(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The --out of vos batch.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME ...]", help="Videos as vos status names them; all that failed.")
    ] = None,
) -> None:
    """Let failed videos of a batch be tried again, all or those that are named.

    A vos batch that runs on OUT takes them up; else the next one does. A failed video whose input or options changed
    is tried again without this.
    """
    from vos.batch.ledger import Ledger

    with Ledger.amend(folder_of(out)) as ledger:
        again = ledger.retry(names or None)
        drivers = ledger.drivers()
    if not again:
        emit("no video failed, nothing waits again")
        return
    listed = some(map(printable, again))
    who = "that runs now" if drivers else "that is started next"
    emit(f"{videos(len(again))} wait{'s' * (len(again) == 1)} again for the vos batch {who}: {listed}")
