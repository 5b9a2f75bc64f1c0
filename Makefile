# Needs Python 3.10 or newer, git and make. Everything is installed into .venv, once for each of the extras used.
#   make demo PYTHON=python3.12       another interpreter
#   make test ARGS="tests/losses -x"  arguments for pytest
#   make test JOBS=0                  tests one after another, so that a debugger can be used
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
COLLEAGUE ?= .venv-colleague
ONNX ?= .venv-onnx
ARGS ?=
JOBS ?= 2
RUN := $(VENV)/bin/python

.PHONY: help demo test test-handover test-peers newcomer lint docs test-docs clean \
	bench-demo bench-banking77 bench-supervision bench-attention bench-mining bench-losses bench-engine bench-gpu \
	bench-label-errors bench-false-negatives bench-search bench-report-page methods

help:
	@echo "make demo               train on data that ships with the project, and see what it is good for"
	@echo "make test               the test suite and the doctests"
	@echo "make test-handover      read exports where there is sentence-transformers only, and ONNX Runtime only"
	@echo "make newcomer           first hours of seven people, in an empty environment with the wheel"
	@echo "make test-peers         compare with seven other libraries, many times; they go into .venv-peers"
	@echo "make lint               ruff check, ruff format, mypy"
	@echo "make docs               the documentation with its reference, as pages in site/"
	@echo "make test-docs          open each of these pages in Chromium: links, console, requests"
	@echo "make bench-demo         tagged packages beside other methods, three seeds"
	@echo "make bench-banking77    against sentence-transformers; needs LIT_METRIC_DATA"
	@echo "make bench-supervision  each other kind of supervision, before and after; needs LIT_METRIC_DATA"
	@echo "make bench-attention    attention pooling of tags against their mean, with noise among them"
	@echo "make bench-mining       what mining costs and is worth, into OUT=DIR; needs LIT_METRIC_DATA"
	@echo "make bench-losses       all losses from classes compared, into OUT=DIR; needs LIT_METRIC_DATA"
	@echo "make bench-engine       speed and memory beside other libraries, into OUT=DIR; needs LIT_METRIC_DATA"
	@echo "make bench-search       how fast each kind of saved index answers, into OUT=DIR"
	@echo "make bench-report-page  how fast the page of a report is in Chromium, into OUT=DIR"
	@echo "make bench-label-errors find wrong labels, beside cleanlab, into OUT=DIR; needs LIT_METRIC_DATA"
	@echo "make bench-false-negatives  find mined negatives that are false, into OUT=DIR; needs LIT_METRIC_DATA"
	@echo "make methods            each method of the recipe book beside its baselines, into OUT=DIR; needs LIT_METRIC_DATA"
	@echo "make bench-gpu          the same on a GPU, in eight minutes, into OUT=DIR"
	@echo "make clean              remove .venv, caches and build products (runs/ is kept)"

demo: $(VENV)/installed-demo
	$(RUN) -m benchmarks.demo $(ARGS)

bench-demo: $(VENV)/installed-bench
	$(RUN) -m benchmarks.packages --seeds 3 --out runs/bench-demo $(ARGS)

bench-mining: OUT ?= runs/bench-mining
bench-mining: $(VENV)/installed-bench
	$(RUN) -m benchmarks.mining --out $(OUT) $(ARGS)

bench-losses: OUT ?= runs/bench-losses
bench-losses: $(VENV)/installed-bench
	$(RUN) -m benchmarks.losses --out $(OUT) $(ARGS)

bench-engine: OUT ?= runs/bench-engine
bench-engine: $(VENV)/installed-bench
	$(RUN) -m benchmarks.engine --out $(OUT) $(ARGS)

bench-report-page: OUT ?= runs/bench-report-page
bench-report-page: $(VENV)/installed-dev
	$(RUN) -m benchmarks.report_page --out $(OUT) $(ARGS)

bench-search: OUT ?= runs/bench-search
bench-search: $(VENV)/installed-bench
	$(RUN) -m benchmarks.search --out $(OUT) $(ARGS)

bench-label-errors: OUT ?= runs/bench-label-errors
bench-label-errors: $(VENV)/installed-bench
	$(RUN) -m benchmarks.label_errors --out $(OUT) $(ARGS)

bench-false-negatives: OUT ?= runs/bench-false-negatives
bench-false-negatives: $(VENV)/installed-bench
	$(RUN) -m benchmarks.false_negatives --out $(OUT) $(ARGS)

methods: OUT ?= runs/methods
methods: $(VENV)/installed-bench
	$(RUN) -m benchmarks.methods --out $(OUT) $(ARGS)

bench-gpu: OUT ?= runs/bench-gpu
bench-gpu: $(VENV)/installed-bench $(VENV)/installed-dev
	$(RUN) -m benchmarks.engine.gpu --out $(OUT) $(ARGS)

bench-banking77: $(VENV)/installed-bench
	$(RUN) -m benchmarks.banking77 --seeds 3 --out runs/bench-banking77 $(ARGS)

bench-supervision: $(VENV)/installed-bench
	$(RUN) -m benchmarks.supervision --seeds 3 --out runs/bench-supervision $(ARGS)

bench-attention: $(VENV)/installed-bench
	$(RUN) -m benchmarks.attention --seeds 3 --out runs/bench-attention $(ARGS)

test: $(VENV)/installed-dev
	$(RUN) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# What people get who have no lit-metric: each environment reads what this one wrote.
test-handover: $(VENV)/installed-dev $(COLLEAGUE)/installed $(ONNX)/installed
	rm -rf .handover
	$(RUN) -m tests.handover.write .handover
	$(COLLEAGUE)/bin/python tests/handover/read.py sentence-transformers .handover
	$(ONNX)/bin/python tests/handover/read.py onnx .handover
	rm -rf .handover

newcomer: EMPTY := $(CURDIR)/.newcomer
newcomer:
	rm -rf $(EMPTY) && $(PYTHON) -m venv $(EMPTY)/venv
	$(EMPTY)/venv/bin/python -m pip wheel --no-deps --wheel-dir $(EMPTY) .
	$(EMPTY)/venv/bin/python -m pip install --constraint constraints.txt "$$(ls $(EMPTY)/*.whl)[demo]"
	cp tests/end_to_end/newcomer.py $(EMPTY)
	cd $(EMPTY) && venv/bin/python newcomer.py $(ARGS)
	rm -rf $(EMPTY)

# The quick part first, as make test runs it, so that docs/correctness.md can count both.
test-peers: $(PEERS)/installed
	LIT_METRIC_COUNTS=$(PEERS)/quick.json $(PEERS)/bin/python -m pytest tests/peers tests/properties
	LIT_METRIC_COUNTS=$(PEERS)/all.json LIT_METRIC_EXAMPLES=300 \
		$(PEERS)/bin/python -m pytest tests/peers tests/properties -m "" $(ARGS)
	$(PEERS)/bin/python -m docs.build_correctness --quick $(PEERS)/quick.json --all $(PEERS)/all.json

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

test-docs: docs $(VENV)/installed-dev
	LIT_METRIC_SITE=site $(RUN) -m pytest tests/docs/test_site.py

clean:
	rm -rf $(VENV) $(PEERS) $(COLLEAGUE) $(ONNX) .newcomer .handover build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: pyproject.toml constraints.txt | $(RUN)
	$(RUN) -m pip install --constraint constraints.txt --editable '.[$*]'
	@touch $@

$(PEERS)/installed: pyproject.toml constraints.txt tests/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --constraint constraints.txt --editable '.[dev]' tensorflow-cpu==2.21.0
	$(PEERS)/bin/python -m pip install --no-deps --requirement tests/peers/requirements.txt
	@touch $@

$(COLLEAGUE)/installed: PACKAGES := sentence-transformers
$(ONNX)/installed: PACKAGES := onnxruntime tokenizers
$(COLLEAGUE)/installed $(ONNX)/installed: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --constraint constraints.txt $(PACKAGES)
	@touch $@
