# Everything a newcomer needs: `make demo`, `make test`. Each target sets up what it needs, once, in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-training demo-network test lint format bench simulate proto kill-matrix clean help
help:            ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Unisono needs Python 3.11 or newer; say which with: make PYTHON=python3.11 demo"; exit 1; }
	@$(PYTHON) -m venv .venv && touch $@

.venv/demo: .venv/python pyproject.toml constraints.txt
	@echo "setting up .venv (once; about a minute) ..."
	@$(PIP) --editable '.[demo]' && touch $@

.venv/network: .venv/python pyproject.toml constraints.txt
	@echo "setting up .venv (once; about a minute) ..."
	@$(PIP) --editable '.[demo,network]' && touch $@

.venv/training: .venv/python pyproject.toml constraints.txt
	@echo "setting up .venv (once; some minutes, PyTorch is large) ..."
	@$(PIP) --editable '.[training,network]' && touch $@

.venv/test: .venv/python pyproject.toml constraints.txt
	@echo "setting up .venv for the tests (once; about a minute) ..."
	@$(PIP) --editable '.[test]' && touch $@

.venv/dev: .venv/python pyproject.toml constraints.txt
	@$(PIP) --editable '.[dev]' && touch $@

demo: .venv/demo  ## the main job: four hospitals answer a survival study on the NCCTG lung trial
	@$(BIN)/unisono demo

demo-training: .venv/training ## federated optimisers on two data sets over five hospitals that differ; model files opened elsewhere
	@$(BIN)/unisono demo training

demo-network: .venv/network  ## the main job between five processes with mutual TLS: joining, approving, one hospital killed
	@$(BIN)/unisono demo --network

test: .venv/test  ## the whole test suite, under 10 minutes on 2 cores
	@$(BIN)/python -m pytest

lint: .venv/dev   ## ruff, the floors of the house (import-linter), strict types (mypy)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/mypy

format: .venv/dev ## format and fix what ruff can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: .venv/dev  ## every benchmark; tables go into docs/benchmarks.md
	@$(BIN)/python benchmarks/statistics.py --write
	@$(BIN)/python benchmarks/secure_sum.py --write
	@$(BIN)/python benchmarks/network.py --write
	@$(BIN)/python benchmarks/network_links.py --write
	@$(BIN)/python benchmarks/network_memory.py --write
	@$(BIN)/python benchmarks/training.py --write
	@$(BIN)/python benchmarks/heterogeneity.py --write

kill-matrix: .venv/test ## kill -9 of coordinator and sites at every message, over real sockets (about half an hour on 2 cores)
	@$(BIN)/python -m tests.kill_matrix

simulate: .venv/demo ## secure aggregation under 200,000 random schedules of faults and attacks (about an hour on 2 cores)
	@$(BIN)/unisono simulate secagg --sites 12 --schedules 200000 --seed 1

WIRE := src/unisono/network/wire
proto: .venv/dev  ## compile the wire's protocol buffers again, after a change of unisono.proto
	@$(PIP) grpcio-tools && $(BIN)/python -m grpc_tools.protoc -I $(WIRE) --python_out=$(WIRE) --pyi_out=$(WIRE) $(WIRE)/unisono.proto

clean:            ## remove what the targets made
	rm -rf .venv .bench-venv unisono-demo unisono-demo-network unisono-demo-training unisono-demo-training-network .heterogeneity .pytest_cache .mypy_cache .ruff_cache .hypothesis
