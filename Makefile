# `make demo` and `make test` do all of their own set-up, each in an environment of its own, and are quick when repeated.
PYTHON ?= python3
DEMO := .venv-demo/bin
BIN := .venv/bin
ATTACKS := bad_audio corpus faults state_machines integrity votes_file store checkpoints pretrained app_safety

.PHONY: demo test lint docs attack bench audit clean

demo: .venv-demo/.ready ## Synthetic songs, simulated listeners: fit, test, cross-validate (results in runs/demo)
	$(DEMO)/python train.py fit -c configs/demo.yaml
	$(DEMO)/python train.py test -c configs/demo.yaml --ckpt_path last
	$(DEMO)/python train.py crossval -c configs/demo.yaml

# Two processes of one thread each are done sooner than one process of two threads.
test: lint ## Everything that a change must pass
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.ready docs ## Style, types, the direction of imports, the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.ready ## The documentation, into build/docs
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

attack: .venv/.ready ## Attack everything, and count the attacks (build/attack.md); some 15 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not milvus" --numprocesses 2 --dist loadfile \
		--attack-page build/attack.md $(ATTACKS:%=tests/test_%.py)

# BENCH=--quick for small sizes; see tests/benchmarks/book.py for more.
bench: .venv/.ready ## All benchmarks, as one page with pictures in build/benchmarks; hours
	$(BIN)/python tests/benchmarks/book.py $(BENCH)

audit: ## Known weaknesses of the pinned dependencies
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

.venv-demo/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-demo
	$(DEMO)/python -m pip install --quiet --constraint constraints.txt --editable '.[train]'
	touch $@

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[app,models,train,milvus,ray,dev,docs]'
	touch $@

clean: ## Remove the environments, all runs and all builds
	rm -rf .venv .venv-audit .venv-demo build runs
