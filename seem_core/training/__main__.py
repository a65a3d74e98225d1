"""``python -m seem_core.training pack|init|reader``: make the training file and first weights, train the reader."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from threading import Event

import torch

from seem_core.errors import VosError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 3 input or output error)."""
    parser = argparse.ArgumentParser(prog="python -m seem_core.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _pack_options(commands.add_parser("pack", help="make one file of all training data"))
    _init_options(commands.add_parser("init", help="write first weights of the dense reader, ImageNet's in its trunk"))
    _reader_options(commands.add_parser("reader", help="train the dense reader"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return int(options.run(options))
    except VosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


def _pack_options(parser: argparse.ArgumentParser) -> None:
    from seem_core.training.pack import PackOptions

    defaults = PackOptions()
    parser.add_argument("data", type=Path, help="folder with davis, clips, ytvos_sample and still")
    parser.add_argument("out", type=Path)
    for name in ("still_side", "clip_side", "max_side", "still_quality", "clip_quality", "thinning"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    parser.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> int:
    from seem_core.training.pack import PackOptions, pack

    names = ("still_side", "clip_side", "max_side", "still_quality", "clip_quality", "thinning")
    made = pack(options.data, options.out, PackOptions(**{n: getattr(options, n) for n in names}))
    print(made)
    return 0


def _init_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    from seem_core.reader import ReaderConfig
    from seem_core.reader_weights import save_reader

    torch.manual_seed(options.seed)
    model = ReaderConfig().build().pretrained_trunk()
    save_reader(model.state_dict(), model.config, options.out, facts={"trained": "backbone"}, half=True)
    print(f"wrote {options.out}")
    return 0


def _reader_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", type=Path)
    parser.add_argument("folder", type=Path, help="the run's folder; a checkpoint in it is taken up")
    parser.add_argument("--minutes", type=float, help="of training, all sittings together")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--within", type=float, help="minutes that this sitting may take, set-up included")
    parser.add_argument(
        "--stage",
        action="append",
        metavar="UNTIL:SIZE:CLIPS:FRAMES",
        help="batch sizes until a share of the run, e.g. 0.4:256:32:4; may be repeated",
    )
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=None, help="of autocast")
    parser.add_argument("--layout", choices=("channels_last", "mixed", "contiguous"), default="channels_last")
    parser.add_argument("--tune", action="store_true", help="cuDNN times its algorithms, at every stage anew")
    parser.add_argument("--workers", type=int, default=None, help="processes that plan clips; 0 = none")
    parser.add_argument("--init", type=Path, help="reader weights to start from")
    parser.add_argument("--trunk", type=Path, help="EfficientNet-Lite0 ImageNet weights, if the package is not there")
    parser.add_argument("--compile", action="store_true", help="torch.compile the trunk and the decoder")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0)
    parser.add_argument("--checkpoint-steps", type=int)
    parser.add_argument("--log-steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="where the averaged weights go (default: FOLDER/reader.safetensors)")
    parser.set_defaults(run=_reader)


def _reader(options: argparse.Namespace) -> int:
    from seem_core.training.train_reader import ReaderRun, parse_stages, train_reader

    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    default_workers = max(1, min(12, cores - 3)) if options.device.startswith("cuda") else 0
    run = ReaderRun(
        pack=options.pack,
        folder=options.folder,
        minutes=options.minutes,
        steps=options.steps,
        within=options.within,
        stages=parse_stages(options.stage),
        rate=options.rate,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        layout=options.layout,
        tune=options.tune,
        workers=default_workers if options.workers is None else options.workers,
        init=options.init,
        trunk=options.trunk,
        compile=options.compile,
        checkpoint_seconds=options.checkpoint_seconds,
        checkpoint_steps=options.checkpoint_steps,
        log_steps=options.log_steps,
        out=options.out,
    )
    train_reader(run, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
