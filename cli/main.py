"""The console entry: the table of commands, and the one place where an error becomes a sentence and an exit code.

    0    done                                    4    checkpoint
    1    a bug of ours, with its traceback       5    a limit was met (memory, disk)
    2    usage                                   6    a batch finished, some videos failed
    3    input, output, device, missing extra    130  interrupted; finished frames are kept

A command is one line in `COMMANDS`; its module is imported when it is called, so that ``vos --help`` stays quick.
A command function returns its exit code, or nothing for 0.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from cli.console import say, silence, visible

PACKAGES = ("vos", "trackers", "seem_core", "cli")
INTERRUPTED = 130
# typer carries its own click since 0.20 and names only some of its errors; their common base is two steps up.
ClickError: type[Exception] = typer.BadParameter.__mro__[2]


@dataclass(frozen=True)
class CommandEntry:
    """What the user types, where it lives (``module:attribute``, a function or a `typer.Typer`), and its help line."""

    name: str
    target: str
    help: str


COMMANDS = (
    CommandEntry(
        "track", "cli.track:track", "Follow objects through a video; write masks, an overlay and a contact sheet."
    ),
    CommandEntry(
        "render", "cli.render:render", "Make the overlay and the contact sheet of a result again from its masks."
    ),
    CommandEntry("segment", "cli.segment:segment", "Segment one picture with SEEM: points, boxes, masks, words, all."),
    CommandEntry("batch", "cli.batch:batch", "Track every video of a folder that has a mask beside it."),
    CommandEntry("status", "cli.status:status", "Show how a batch is going: what is done, what runs, what failed."),
    CommandEntry("retry", "cli.retry:retry", "Let failed videos of a batch be tried again."),
    CommandEntry("score", "cli.score:score", "Compare masks with ground truth: J, F and J&F as DAVIS defines them."),
    CommandEntry("davis", "cli.davis:davis", "Run trackers over a DAVIS dataset and print their scores side by side."),
    CommandEntry("bench", "cli.bench:bench", "Measure how few clicks and other marks a segmenter needs on pictures."),
    CommandEntry("train", "cli.train:train", "Train the dense reader or SEEM, or fine-tune SEEM on your own pictures."),
    CommandEntry("models", "cli.models:models", "Get, convert and check the weights of SEEM."),
    CommandEntry(
        "doctor", "cli.doctor:doctor", "Show versions, devices, codecs and CPU features, and what is missing."
    ),
)


class LazyGroup(TyperGroup):
    """A group that imports a command's module when the command is called, and not to list it."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return [entry.name for entry in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = next((entry for entry in COMMANDS if entry.name == cmd_name), None)
        if entry is None:
            return None
        if self._listing:
            return TyperCommand(entry.name, help=entry.help)
        return load_command(entry)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


def load_command(entry: CommandEntry) -> Any:
    """Import a command and make it ready to be called."""
    module, attribute = entry.target.split(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(entry.name, help=_unwrapped(inspect.getdoc(target) or entry.help))(target)
        target = app
    for info in target.registered_commands:
        info.help = info.help or _unwrapped(inspect.getdoc(info.callback) or "")
    command = typer.main.get_command(target)
    command.name = entry.name
    return command


def _unwrapped(text: str) -> str:
    """Paragraphs of a docstring as one line each, so that the terminal breaks them where it is wide."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"vos {version('seem-vos')}")
        except PackageNotFoundError:
            print("vos (not installed)")
        raise typer.Exit


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.callback(context_settings={"help_option_names": ["-h", "--help"]})
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """Follow any object through any video from one mask, click or box."""


def intruder() -> str | None:
    """A sentence about a package that is not ours but bears one of our names, or None.

    Other people's `vos` and `trackers` exist on the package index; whichever was installed last would be imported.
    """
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            return f"package {name!r} is missing beside {home}; install seem-vos again"
        if Path(places[0]).resolve().parent != home:
            return (
                f"package {name!r} at {places[0]} is another project's, ours lies in {home}; "
                "install seem-vos in a virtual environment of its own"
            )
    return None


def exit_code(error: Exception) -> int:
    """The exit code of one of our own errors."""
    from seem_core import errors

    if isinstance(error, errors.CheckpointError):
        return 4
    if isinstance(error, errors.LimitError):
        return 5
    return 3


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are sentences on stderr."""
    if "" in argv:  # as a path it would mean the current folder
        return _fail("an argument is empty; if it comes from a variable, that is not set", 2)
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # before torch loads: spinning threads starve decoder and writer
    _print_any_path()
    handler = logging.StreamHandler()
    handler.setFormatter(_VisibleFormatter("vos: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    if stranger := intruder():
        return _fail(stranger, 3)

    from seem_core.errors import VosError

    try:
        code = typer.main.get_command(app).main(
            args=[_at_home(word) for word in argv], prog_name="vos", standalone_mode=False
        )
        return code if isinstance(code, int) else 0
    except VosError as error:
        code = _fail(str(error), exit_code(error))
        for line in getattr(error, "__notes__", ()):
            say(f"vos: note: {line}")
        return code
    except ClickError as error:
        return _usage(error)
    except SystemExit as end:  # so typer ends where a pipe broke
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        if not {"-h", "--help"} & set(argv):
            return _bug(end.__context__)
        silence(sys.stdout)  # the reader has seen enough of the help
        return 0
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        return _bug(error)


class _VisibleFormatter(logging.Formatter):
    """Log lines hold file names and what libraries say about files: shown as `cli.console.visible` does."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _at_home(word: str) -> str:
    """``--out=~/x`` and quoted paths, in which shells leave the ``~`` as it is."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value) if value.startswith("~/") else word


def main() -> NoReturn:
    """The console script ``vos``."""
    sys.exit(run(sys.argv[1:]))


def _print_any_path() -> None:
    """File names need not be text: print their bytes as they are where the terminal's encoding allows, else escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _fail(sentence: str, code: int) -> int:
    say(f"vos: error: {sentence}")
    return code


def _bug(error: BaseException) -> int:
    say("".join(traceback.format_exception(error)).rstrip())
    return _fail("this is a bug; please report it with the lines above", 1)


def _usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # `vos` alone: its message is the help
        error.show()
        return 2
    where = context.command_path if context is not None else "vos"
    return _fail(f"{error.format_message().rstrip('.')}; see '{where} --help'", 2)
