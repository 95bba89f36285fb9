# Two commands matter: `make tour` shows the whole loop, `make test` proves it. Both do the set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOUR_OUT ?= runs/tour

.PHONY: setup tour test check bench study toy clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

tour: setup
	$(BIN)/divalign run --out $(TOUR_OUT)

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup
	$(BIN)/python -m bench

# Two more bases of the embedded world, and the study over all three: hours; stopped, the same command goes on.
study: runs/bases/1/card.json runs/bases/2/card.json
	$(BIN)/divalign sweep configs/study.yaml --out runs/study --docs docs

runs/bases/%/card.json: | setup
	$(BIN)/python -m divalign.toy.pretrain --seed $* --out $(@D)

toy: setup
	$(BIN)/python -m divalign.toy.pretrain

clean:
	rm -rf $(VENV) runs build dist
