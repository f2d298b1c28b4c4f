# `make demo` and `make test` each work alone on a fresh machine: they set up .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test check bench train-cost-model clean
.SECONDARY:

demo: $(VENV)/.demo
	$(BIN)/python examples/digits.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/pointwise.py
	$(BIN)/python benchmarks/compile_time.py

# The weights that ship with the compiler, from the measurements in benchmarks/data.
train-cost-model: $(VENV)/.judges
	$(BIN)/python -m benchmarks.tuning train

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# $(VENV)/.NAME says that the extra NAME of pyproject.toml is installed.
$(VENV)/.%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@
