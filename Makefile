# Two commands for a newcomer: `make demo` and `make test`. Both make .venv when there is none.
VENV := .venv
PYTHON ?= python3
REPOSITORY ?= models
ONCE ?=
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	python docs/demo.py --repository $(REPOSITORY) $(if $(ONCE),--once)

test: lint
	python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	ruff check .
	ruff format --check .
	mypy

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
