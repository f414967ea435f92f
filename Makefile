# make study | make test | make bench | make lab : each installs what it needs into .venv first
PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test bench lab clean

study: .venv/.installed
	$(BIN)/il2m run quickstart

test: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

bench: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/table.py

lab: .venv/.installed
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
		$(BIN)/jupyter lab --notebook-dir notebooks --LabApp.default_url=/lab/tree/index.ipynb $(LAB_OPTIONS)

.venv/.installed: pyproject.toml il2m/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "il2m needs Python 3.11 or newer; this is " \
		+ sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	rm -rf il2m.egg-info
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf .venv
