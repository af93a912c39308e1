# One verb per chore; each sets up .venv by itself. Needs make and Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# of the table that `make eval` fills; all of them if empty
ROWS :=
# Processes that share the tests, one torch thread each; 0 runs them all in one.
WORKERS := 2
# seconds of `make soak`
SOAK := 600

.PHONY: help demo test check parity eval bench soak setup clean

help:
	@echo "make demo    ask the small model aloud about a picture and a clip"
	@echo "make test    run the tests"
	@echo "make check   format, lint and types"
	@echo "make parity  compare with transformers, number by number"
	@echo "make eval    what the small model can do, against its marks"
	@echo "make bench   time every stage against transformers, and against its marks"
	@echo "make soak    clients of all kinds against a server, for SOAK=600 seconds"

demo: $(READY)
	$(RUN) -m demos.tour

test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(WORKERS) --dist worksteal

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

parity: $(READY)
	$(RUN) -m tests.oracle.parity

eval: $(READY)
	$(VENV)/bin/omni eval --rows "$(ROWS)"

bench: $(READY)
	$(VENV)/bin/omni bench stages --check

soak: $(READY)
	SOAK=$(SOAK) $(RUN) -m tests.streaming.soak

setup: $(READY)

# The torch of constraints.txt goes first, by its exact version: see there.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "omni needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
