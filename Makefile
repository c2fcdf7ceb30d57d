# make demo and make test set everything up by themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

demo: install
	$(BIN)/penjing demo --out demo-run

test: install
	$(BIN)/python -m pytest --numprocesses auto

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

clean:
	rm -rf .venv demo-run
