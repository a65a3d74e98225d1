"""Imports point down: cli -> vos -> trackers -> seem_core, read from the source without running it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"seem_core": 0, "trackers": 1, "vos": 2, "cli": 3}


def imported_rooms(source: str) -> set[str]:
    """The packages of ours that a module imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            names |= {str(arg.value).split(".")[0] for arg in node.args if isinstance(arg, ast.Constant)}
    return names & FLOORS.keys()


@pytest.mark.parametrize("room", FLOORS)
def test_no_import_points_up(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    up = {
        f"{file.relative_to(ROOT)} imports {other}"
        for file in files
        for other in imported_rooms(file.read_text(encoding="utf-8"))
        if FLOORS[other] > FLOORS[room]
    }
    assert not up


def test_the_check_sees_every_form_of_import() -> None:
    source = "import vos.video\ndef f():\n    from cli.main import main\nimportlib.import_module('trackers.base')\n"
    assert imported_rooms(source) == {"vos", "cli", "trackers"}
