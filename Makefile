# `make demo` and `make test` do all of their own set-up in .venv, and are quick when repeated.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint clean

demo: $(READY) ## Synthetic songs, simulated listeners: fit, test, cross-validate (results in runs/demo)
	$(BIN)/python train.py fit -c configs/demo.yaml
	$(BIN)/python train.py test -c configs/demo.yaml --ckpt_path runs/demo/checkpoints/last.ckpt
	$(BIN)/python train.py crossval -c configs/demo.yaml

# Two processes of one thread each are done sooner than one process of two threads.
test: lint ## Everything that a change must pass
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(READY) ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[models,train,milvus,ray,dev]'
	touch $@

clean: ## Remove the environment and all runs
	rm -rf .venv runs
