"""Fixtures and options of the parity tests: where the reference lies, and which golden files are held against the code.

``pytest tests/parity``                      the fast subset: Focal-T, stand-alone parts
``pytest tests/parity -m parity_full``       every golden file that is there
``pytest tests/parity --golden DIR``         every golden file of a folder, nothing else
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import seem_fixtures
import torch
from seem_fixtures import REPOSITORY, find_reference_root

DATA = Path(__file__).parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=None, metavar="DIR", help="hold the code against this folder")


def reference_folders(config: pytest.Config) -> tuple[Path, ...]:
    """Where golden files and manifests are looked for, best first; the last one travels with the repository."""
    asked: Path | None = config.getoption("--golden", default=None)
    if asked is not None and not asked.is_dir():
        raise pytest.UsageError(f"--golden {asked} is not a folder")
    data = Path(os.environ.get("VOS_DATA", REPOSITORY.parent / "shared" / "data"))
    return tuple(p for p in (asked, data.parent / "seem_reference", DATA) if p is not None and p.is_dir())


def golden_files(config: pytest.Config) -> list[Path]:
    """Golden files to check: those of ``--golden DIR``, else one of each name from all folders."""
    folders = reference_folders(config)
    if config.getoption("--golden", default=None) is not None:
        folders = folders[:1]
    named = {path.name: path for folder in reversed(folders) for path in folder.glob("golden_*.npz")}
    return [named[name] for name in sorted(named)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_path" in metafunc.fixturenames:
        paths = golden_files(metafunc.config)
        marked = [pytest.param(p, id=p.stem, marks=pytest.mark.parity_full(fast=_is_fast(p))) for p in paths]
        metafunc.parametrize("golden_path", marked, scope="module")


def _is_fast(path: Path) -> bool:
    return path.stem.startswith(("golden_focalt", "golden_misc", "golden_textclass"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``-m`` or ``--golden`` leave out what takes minutes; with ``--golden`` what is about other files."""
    asked = config.getoption("--golden", default=None) is not None
    here = Path(__file__).parent
    left_out = []
    for item in items:
        if here not in item.path.parents:
            continue
        mark = item.get_closest_marker("parity_full")
        about_files = "golden_path" in getattr(item, "fixturenames", ())
        slow = mark is not None and not mark.kwargs.get("fast", False)
        if (asked and not about_files) or (slow and not asked and not config.getoption("-m")):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = seem_fixtures.format_largest_differences()
    if lines and (config.getoption("--golden", default=None) is not None or config.getoption("-m")):
        terminalreporter.section("largest |difference| per golden file and key")
        for line in lines:
            terminalreporter.write_line(line)
    for title, notes in (
        ("attention cells within rounding of zero, decided as recorded", seem_fixtures.resolved_ties),
        ("keys missed in float32 by rounding, met in float64", seem_fixtures.rounded_keys),
    ):
        if notes:
            terminalreporter.section(title)
            for line in notes:
                terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def reference_root() -> Path:
    """Folder of manifests and golden files of the official code."""
    return find_reference_root()


@pytest.fixture
def folders(request: pytest.FixtureRequest) -> tuple[Path, ...]:
    """Folders with manifests, best first."""
    return reference_folders(request.config)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield
