# make demo and make test set everything up by themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check fuzz threads clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

demo: install
	$(BIN)/penjing demo --out demo-run

test: install
	$(BIN)/python -m pytest --numprocesses auto --durations 10

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Damaged files for every reader; requests from eight threads to every engine. Short forms of both are among the tests.
fuzz: install
	$(BIN)/python tests/fuzzing.py --minutes 4

threads: install
	$(BIN)/python tests/threads.py --threads 8 --requests 10000

clean:
	rm -rf .venv demo-run
