"""The console entry: exit codes, lazy imports, the table of commands, strangers with our names."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import main as cli_main
from cli.main import COMMANDS, CommandEntry, LazyGroup, exit_code, run
from seem_core import errors

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "cv2", "av", "numpy", "PIL")


def python(code: str, *, path: Path | None = None, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds our packages, after ``path`` if given."""
    places = [str(place) for place in (path, ROOT) if place is not None]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-P", "-c", code, *arguments]  # -P: the current folder is not on the path
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int | None]], None]:
    """Makes a function the body of ``vos try``."""

    def install(function: Callable[[], int | None]) -> None:
        module = types.ModuleType("try_command")
        module.body = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "try_command", module)
        monkeypatch.setattr(cli_main, "COMMANDS", (CommandEntry("try", "try_command:body", "Try."),))

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.VideoError("no frame"), 3),
        (errors.PromptError("no prompt"), 3),
        (errors.OutputError("no folder"), 3),
        (errors.DeviceError("no device"), 3),
        (errors.MissingExtraError("no extra"), 3),
        (errors.CheckpointError("no weights"), 4),
        (errors.LimitError("too much"), 5),
        (errors.DiskFullError("no room"), 5),
    ],
)
def test_an_error_of_ours_is_a_sentence_and_a_code(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], error: errors.VosError, code: int
) -> None:
    def body() -> None:
        raise error

    command(body)
    assert run(["try"]) == code
    said = capsys.readouterr()
    assert said.err == f"vos: error: {error}\n"
    assert said.out == ""


def test_every_error_class_has_a_code() -> None:
    for name in errors.__all__:
        assert exit_code(getattr(errors, name)("x")) in (3, 4, 5)


def test_a_bug_shows_its_traceback(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise ZeroDivisionError("a bug")

    command(body)
    assert run(["try"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("vos: error: this is a bug; please report it with the lines above\n")


def test_interruption_and_codes_that_commands_return(command: Callable[..., None]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    command(interrupted)
    assert run(["try"]) == 130
    command(lambda: 6)
    assert run(["try"]) == 6
    command(lambda: None)
    assert run(["try"]) == 0


@pytest.mark.parametrize(
    "argv", [["nothing"], ["track", "--stride", "0", "x"], ["track"], ["track", "x", "--device", "tpu"]]
)
def test_wrong_usage_is_a_sentence_and_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("vos: error: ")
    assert said.count("\n") == 1
    assert "--help'" in said


def test_vos_alone_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    said = capsys.readouterr()
    assert "Usage: vos" in said.out + said.err


def test_help_and_every_command_line_import_nothing_heavy() -> None:
    code = (
        "import sys, cli, cli.main\n"
        "for argv in (['--help'], ['--version'], *([entry.name, '--help'] for entry in cli.main.COMMANDS)):\n"
        "    assert cli.main.run(argv) == 0, argv\n"
        f"print('HEAVY', sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    for entry in COMMANDS:
        assert entry.name in done.stdout


def test_listing_commands_imports_none_of_them() -> None:
    code = (
        "import sys, cli.main\n"
        "cli.main.run(['--help'])\n"
        "print([e.target for e in cli.main.COMMANDS if e.target.split(':')[0] in sys.modules])"
    )
    assert python(code).stdout.splitlines()[-1] == "[]"


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"vos {version('seem-vos')}\n"


@pytest.mark.parametrize("name", ["vos", "trackers"])
def test_another_project_with_our_name_is_named(tmp_path: Path, name: str) -> None:
    stranger = tmp_path / name
    stranger.mkdir()
    (stranger / "__init__.py").write_text("raise RuntimeError('the stranger was imported')\n")
    done = python("import sys, cli.main; sys.exit(cli.main.run(['doctor']))", path=tmp_path)
    assert done.returncode == 3
    assert f"package {name!r} at {stranger} is another project's" in done.stderr
    assert done.stderr.count("\n") == 1


def test_python_m_cli_is_vos() -> None:
    code = "import runpy, sys; sys.argv = ['cli', *sys.argv[1:]]; runpy.run_module('cli', run_name='__main__')"
    done = python(code, arguments=("--version",))
    assert done.returncode == 0
    assert done.stdout.startswith("vos ")


def test_the_shell_completes_commands_and_choices() -> None:
    def complete(line: str) -> list[str]:
        code = (
            "import os, sys, cli.main\n"
            "os.environ.update(_VOS_COMPLETE='complete_bash', COMP_WORDS=sys.argv[1], COMP_CWORD=sys.argv[2])\n"
            "cli.main.run([])"
        )
        return python(code, arguments=(line, str(len(line.split(" ")) - 1))).stdout.split()

    assert complete("vos d") == ["davis", "doctor"]
    assert complete("vos track --device c") == ["cpu", "cuda"]


def test_every_entry_has_a_help_line() -> None:
    names = [entry.name for entry in COMMANDS]
    assert len(set(names)) == len(names)
    assert all(entry.help.endswith(".") and ":" in entry.target for entry in COMMANDS)
    assert LazyGroup(name="vos").list_commands(None) == names
