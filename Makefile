# Everything runs in a virtual environment of its own, .venv, made on first use.
PYTHON ?= python3
PRESET ?= quick
BIN := .venv/bin
# Here the kernel python3 is this environment's, whatever else on the machine has that name.
KERNEL := JUPYTER_PATH="$(CURDIR)/.venv/share/jupyter:$$JUPYTER_PATH"
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt

.PHONY: help install reproduce test lint lab notebooks clean

help:
	@echo "make reproduce   execute all notebooks, draw all figures (PRESET=quick, smoke, paper ...)"
	@echo "make test        check style, types and layers, run the tests"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make lint        check style, types and layers only"
	@echo "make notebooks   execute the notebooks in place, as they are committed"
	@echo "make clean       remove .venv and caches; data/, runs/ and figures/ stay"

install: .venv/.installed

# The stamp is written last, so an installation that was cut off is taken up again. PyTorch, nearly
# all of the download, comes first and shows its progress.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into .venv; on Linux, PyTorch brings a few GB of CUDA libraries with it."
	@$(PYTHON) -m venv .venv || \
	  { echo "venv failed; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PIP) torch torchvision
	$(PIP) --quiet -e '.[test]'
	@touch $@

reproduce: install
	$(BIN)/fedobp reproduce --preset $(PRESET)

# Most tests are small steps that keep one core busy, so processes beside each other help more than
# threads. A file's tests stay together: they share what was costly to make.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

lab: install
	$(KERNEL) $(BIN)/jupyter lab notebooks

notebooks: install
	$(KERNEL) $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find fedobp_lib tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
