"""`import vos`: every promised name is there, and nothing heavy comes with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vos


@pytest.mark.parametrize("name", vos.__all__)
def test_every_name_resolves(name: str) -> None:
    assert getattr(vos, name) is not None
    assert name in dir(vos)


def test_no_name_is_also_a_module() -> None:
    modules = {path.stem for path in Path(vos.__file__).parent.iterdir()}
    assert not modules & set(vos.__all__)  # importing the module would hide the name


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse(Path(vos.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == set(vos.__all__) == set(vos._HOME)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        vos.magic  # noqa: B018


def test_importing_vos_is_light() -> None:
    code = "import sys, vos; print(sorted({'torch', 'cv2', 'av', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
