"""``python -m seem_core.training CONFIG.json``: `vos train` on a machine that has neither typer nor a video library.

Also ``pack DATA OUT`` and ``init OUT``. Everything that they do is in `run`, `pack` and `first_weights`.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event

from seem_core.errors import CheckpointError, LimitError, VosError

PACKING = ("still_side", "clip_side", "max_side", "still_quality", "clip_quality", "thinning")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 3 input or output, 4 checkpoint, 5 a limit, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] not in ("pack", "init", "run", "-h", "--help"):
        words = ["run", *words]
    options = _parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return int(options.run(options))
    except VosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4 if isinstance(error, CheckpointError) else 5 if isinstance(error, LimitError) else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m seem_core.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train as a JSON file says (the word run may be left out)")
    run.add_argument("config", type=Path)
    run.add_argument("--folder", help="take the place of the field of this name, as all options do")
    for name in ("minutes", "within"):
        run.add_argument(f"--{name}", type=float)
    for name in ("steps", "seed", "workers", "threads"):
        run.add_argument(f"--{name}", type=int)
    run.add_argument("--device")
    run.set_defaults(run=_run)
    pack = commands.add_parser("pack", help="make one file of all training data")
    pack.add_argument("data", type=Path, help="a folder, or a JSON file with a list named data")
    pack.add_argument("out", type=Path)
    for name in PACKING:
        pack.add_argument(f"--{name.replace('_', '-')}", type=int)
    pack.set_defaults(run=_pack)
    init = commands.add_parser("init", help="write first weights")
    init.add_argument("out", type=Path)
    init.add_argument("--model", default="reader", help="reader, or the name of a SEEM configuration")
    init.add_argument("--seed", type=int, default=0)
    init.set_defaults(run=_init)
    return parser


def _run(options: argparse.Namespace) -> int:
    from seem_core.training.run import read_run, train

    names = ("folder", "minutes", "within", "steps", "seed", "workers", "threads", "device")
    run = read_run(options.config, {name: getattr(options, name) for name in names})
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    train(run, stop)
    return 130 if stop.is_set() else 0


def _pack(options: argparse.Namespace) -> int:
    from seem_core.training.pack import pack
    from seem_core.training.packing import read_sources

    specs, packing = read_sources(options.data)
    given = {name: getattr(options, name) for name in PACKING if getattr(options, name) is not None}
    print(pack(specs, options.out, replace(packing, **given)))
    return 0


def _init(options: argparse.Namespace) -> int:
    from seem_core.training.first_weights import write_first_weights

    write_first_weights(options.model, options.out, options.seed)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
