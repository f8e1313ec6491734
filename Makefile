# make demo [SEED=n]   set up .venv and run the whole recipe on the practice world
# make test            set up .venv and run the tests (under 12 minutes on 2 cores)
# make slow            the slower tests
# make check           formatting, lint, types
# make golden WHY=".." record the golden runs anew where their numbers changed, and say why in CHANGELOG.md
# make mutate          change maths/ and rlhf/ in small ways: do the tests notice? (an hour or two)
# make bench           peers and ours in turn on the same inputs, all workloads; into docs/results/ (some hours)
# make verify          what takes hours: demo, flywheel and IMDb on three seeds and all that is measured on them; into docs/results/

PYTHON ?= python3
SEED ?= 0
BENCH ?= sft reward generate ppo tokenize load scaling
WHY ?=
OUT ?= runs/demo
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow check golden mutate bench verify clean

# torch first and alone: the rest is then resolved around it. Each stamp is remade when its inputs change.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[eval]'
	touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.mutate: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutate]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/instructgpt demo --out $(OUT) --seed $(SEED)

test: $(VENV)/.test
	$(BIN)/python -m pytest -q -m "not slow"
	@echo "left out: slower tests, those in a browser among them (make slow; they need Debian's chromium)"

slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

golden: $(VENV)/.test
	$(BIN)/python -m benchmarks.golden --why "$(WHY)"

mutate: $(VENV)/.mutate
	$(BIN)/python -m benchmarks.mutate

# All of them, whatever one says; a bound that was missed is an error in the end.
bench: $(VENV)/.test
	@failed=; for name in $(BENCH); do \
		$(BIN)/python -m benchmarks.$$name --page || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "missed or failed:$$failed"; exit 1; }

verify: $(VENV)/.test
	$(BIN)/python -m benchmarks.certificate
	$(BIN)/python -m benchmarks.world
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.tax
	$(BIN)/python -m benchmarks.frontier
	$(BIN)/python -m benchmarks.comparators --runs runs/verify/seed-0,runs/verify/seed-1,runs/verify/seed-2
	$(BIN)/python -m benchmarks.interpolate
	$(BIN)/python -m benchmarks.lora --runs runs/verify/seed-0,runs/verify/seed-1,runs/verify/seed-2
	$(BIN)/python -m benchmarks.label_load --databases sqlite,postgresql
	$(BIN)/python -m benchmarks.serve_load --cache-mib 26000 \
		--models SmolLM2-135M=runs/lora/base,practice-world=runs/verify/seed-0/ppo_ptx
	$(BIN)/python -m benchmarks.flywheel
	$(BIN)/python -m benchmarks.imdb

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
