# make demo: from data to a report; make test: documentation and tests; make lint, make docs, make clean.
# Everything runs in .venv, which is made on first use and renewed when the requirements change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPED := $(VENV)/.installed-dev

export NO_MKDOCS_2_WARNING := 1

.PHONY: install demo test docs lint format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tdn needs Python >= 3.11: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

# What tests, documentation and linters need besides.
$(DEVELOPED): $(INSTALLED)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/tdn demo --output demo-output

# A file of tests stays in one process, which makes what its tests share. Of OpenMP's threads each process has one.
test: docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

docs: $(DEVELOPED)
	$(BIN)/mkdocs build --strict

lint: $(DEVELOPED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(DEVELOPED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build site demo-output
