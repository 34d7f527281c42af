# Every target sets itself up: the first one run on a fresh machine creates $(VENV) and installs into it.
PYTHON ?= python3
VENV   ?= .venv
STAMP  := $(VENV)/.installed
DEMO   := build/demo.html
PRICE  := build/price.html
BIN    := $(VENV)/bin

# Nothing here may depend on the Hub being reachable.
export HF_HUB_OFFLINE = 1
export TRANSFORMERS_OFFLINE = 1

.PHONY: help setup demo test check bench coverage docs golden clean
.DELETE_ON_ERROR:

help:
	@echo "demo      trace and price the example model, write $(DEMO) and $(PRICE)"
	@echo "test      all tests, in parallel, warnings are errors"
	@echo "check     format, lint, types, sizes and the fast tests"
	@echo "bench     what a trace costs: the example and the published configs at hand (minutes)"
	@echo "coverage  trace every model type of transformers, rewrite docs/coverage.md (minutes)"
	@echo "docs      rewrite the generated pages of docs/"
	@echo "golden    rewrite tests/golden; read the diff before committing it"
	@echo "clean     remove what the other targets made, the environment included"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; run: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@mkdir -p $(dir $(DEMO))
	$(BIN)/trace-model examples/tiny-moe --html $(DEMO)
	$(BIN)/price-model examples/tiny-moe --batch 16 --isl 4096 --osl 256 --html $(PRICE)
	@echo "reports: $(DEMO) $(PRICE)"

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(wildcard oplib perfdb models tracer collector)
	$(BIN)/python tools/check_sizes.py
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow and not gpu' --hypothesis-profile=quick

bench: $(STAMP)
	$(BIN)/python tools/bench.py
	$(BIN)/python tools/bench_tables.py
	$(BIN)/python tools/bench_prices.py

coverage: $(STAMP)
	$(BIN)/python tools/coverage.py

docs: $(STAMP)
	$(BIN)/python tools/docs_build.py

golden: $(STAMP)
	$(BIN)/python -m pytest -m golden --update-golden

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
