# Needs make and Python 3.11 or newer; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo 'make demo   write a synthetic slide, find its nuclei, leave demo/mask.tif and demo/overlay.png'
	@echo 'make test   run the tests, without the slow ones and those that need a GPU'
	@echo 'make lint   ruff and mypy'
	@echo 'make clean  remove what the others left, but for .venv'

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/axial sample demo/slide.tif --size 4096 --force
	$(BIN)/axial predict demo/slide.tif --out demo/mask.tif --overlay demo/overlay.png --force
	@echo
	@echo 'slide    $(CURDIR)/demo/slide.tif'
	@echo 'mask     $(CURDIR)/demo/mask.tif'
	@echo 'overlay  $(CURDIR)/demo/overlay.png'

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -m 'not slow and not gpu' -n logical --maxprocesses 8 --dist worksteal

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find axialcli models tests -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/installed: pyproject.toml constraints.txt axialcli/nn/banded.cpp axialcli/nn/banded_lanes.hpp
	@$(PYTHON) -c 'import sys; sys.exit("axial needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) -e '.[test]'
	touch $@
