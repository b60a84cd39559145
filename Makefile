# Everything runs inside .venv, which every target makes first; `make` alone lists the targets.
# Another interpreter: make test PYTHON=/path/to/python3.11

CANDIDATES := python3.11 python3 python3.12 python3.13 python
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach name,$(CANDIDATES),$(shell $(name) -c '$(RECENT)' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help environment demo test test-integrations calibration notebooks benchmark clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

environment: $(INSTALLED) ## make .venv and install the tested versions into it

$(INSTALLED): pyproject.toml constraints.txt
	@'$(PYTHON)' -c '$(RECENT)' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed$(if $(PYTHON), ($(PYTHON) is not)). Install it, or name it: make environment PYTHON=/path/to/python3.11" >&2; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
	$(PIP) install -c constraints.txt -e ".[test]"
	@touch $@

demo: environment ## train twenty small networks, find their phases, draw them into demo/
	$(BIN)/python -m training sparse_parity --seeds 20 --jobs 2 --out demo/runs
	$(BIN)/bayeshmm analyze demo/runs --states 1:8 --out demo --event "test/acc > 0.9" --blind-to "test/*" "train/acc"

test: environment ## check style and types, run the test suite
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-integrations: environment ## test with TensorBoard, W&B, Lightning, Hugging Face, Dask and Ray
	$(PIP) install -c constraints.txt -e ".[test,integrations]"
	$(BIN)/pytest -m integration

calibration: environment ## run the slower statistical checks
	OMP_NUM_THREADS=1 $(BIN)/pytest -m calibration -n 2 --dist loadfile

notebooks: environment ## run the notebooks again, in place
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

benchmark: environment ## compare speed and fit with peer libraries
	$(PIP) install -c constraints.txt -e ".[benchmark]"
	$(BIN)/python -m benchmarks

clean: ## remove the environment, the demo's output and every cache
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find bayeshmm training tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
