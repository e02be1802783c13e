# demo and test set up .venv first, when it is not there or its inputs changed. They need nothing
# but Python 3.11 to 3.13 with pip and venv: no compiler, no root.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
STAMP := $(VENV)/installed

# libp2p 0.8.1 asks for exactly fastecdsa 2.3.2, which exists as source only; this one has wheels.
# So libp2p goes in without its dependencies, all of which constraints.txt lists.
FASTECDSA := fastecdsa==3.0.1

# Tests that need no process, no socket and no training, but for those marked slow: `make quick`.
QUICK := tests/protocol tests/node/kinds tests/node/scheduler tests/node/storage tests/node/status \
	tests/node/limits tests/node/test_logs.py tests/test_docs.py tests/test_habits.py \
	tests/test_imports.py
# Tests of the code whose branches are counted ([tool.coverage] in pyproject.toml).
COVERED := tests/protocol tests/node/kinds tests/node/scheduler

COMMA := ,
RATES ?= 2e-3,4e-3,8e-3
OUTER_RATES ?= 0.4,0.7,1.0

.PHONY: demo test quick coverage ci adversary chaos docs fuzz bench compare lint format simulate \
	simulate-nodes mutations clean

demo: $(STAMP)
	$(BIN)/dipaco-node testnet --nodes 4 --report report.json

# TEST_JOBS=1 runs one test after another, as continuous integration does.
test: lint
	$(BIN)/python -m pytest -n $(or $(TEST_JOBS),2) --dist worksteal

quick: lint
	$(BIN)/python -m pytest -m "not slow" $(QUICK)

coverage: $(STAMP)
	$(BIN)/python -m coverage run -m pytest $(COVERED)
	$(BIN)/python -m coverage report

# As make test, every test once. Counting branches takes these tests twice their time.
ci: lint coverage
	$(BIN)/python -m pytest $(addprefix --ignore=,$(COVERED))

# make adversary tries every attack of tests/adversary on real processes, make adversary NAME=a,b
# some of them; SECONDS of each. make test tries them in memory.
adversary: $(STAMP)
	$(BIN)/python -m tests.adversary --seconds $(or $(SECONDS),4) $(subst $(COMMA), ,$(NAME))

# make chaos plays a fault tape on eight nodes and checks the end against one process, some minutes;
# SEED makes another tape, FAULTS=60 EVERY=30s a longer one.
chaos: $(STAMP)
	$(BIN)/dipaco-node testnet benchmarks/chaos.toml --nodes 8 --seed $(or $(SEED),1) \
	--restart 1:5s --freeze 1:15s --leave 1:10s --restart scheduler:3s --partition 1:12s \
	--slow-link 2:1Mbit/s/8Mbit/s,40ms,0.5% --every $(or $(EVERY),15s) --faults $(or $(FAULTS),12) \
	--report chaos.json

# make fuzz SECONDS=600 JOBS=2 throws mutated inputs at every decoder (tests/fuzz); TARGET=group or
# TARGET=group/name runs some alone, and another SEED makes other inputs.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) --jobs $(or $(JOBS),2) \
	--seed $(or $(SEED),1) --target "$(TARGET)"

# make simulate SEEDS=10000 JOBS=2 runs so many universes (docs/simulation.md), and goes on from
# where it ended before; FIRST is the first seed.
simulate: $(STAMP)
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0) \
	--jobs $(or $(JOBS),2) --state build/simulation-$(or $(FIRST),0).json

# make simulate-nodes SEEDS=200 FIRST=0 runs whole nodes under faults, a universe for each seed
# (docs/operation.md). Hashes are fixed, so that a seed is the same universe in every process.
simulate-nodes: $(STAMP)
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation_nodes --seeds $(or $(SEEDS),20) \
	--first $(or $(FIRST),0)

# make mutations SEEDS=100 plants bugs in the machines and in whole nodes, and counts the universes
# until each is found (docs/simulation.md).
mutations: $(STAMP)
	$(BIN)/python -m tests.simulation --mutations --seeds $(or $(SEEDS),100)
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation_nodes --mutations --seeds $(or $(SEEDS),100)

# make bench DATA=folder measures on the parquet files there: docs/benchmarks.md.
bench: $(VENV)/bench
	$(BIN)/python -m benchmarks $(if $(DATA),--data "$(DATA)") $(ONLY)

# make compare trains the packaged demo and its controls, make compare DATA=folder what
# docs/compare.md shows, on the parquet files there. SEEDS, JOBS, METHODS=a,b, RATES and
# OUTER_RATES as its options.
compare: $(STAMP)
	$(BIN)/dipaco-node compare $(if $(DATA),benchmarks/compare-dev.toml --data "$(DATA)") \
	--out build/compare$(if $(DATA),-dev) --seeds $(or $(SEEDS),3) --jobs $(or $(JOBS),1) \
	--rates $(RATES) $(if $(OUTER_RATES),--outer-rates $(OUTER_RATES)) $(if $(METHODS),--methods $(METHODS)) \
	$(if $(DATA),--domain-field domain)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site of the documents, in build/site: it opens from the folder, and fetches nothing.
docs: $(STAMP)
	rm -rf build/pages build/site
	mkdir -p build/pages/node/data/demo
	cp -r *.md LICENSE docs build/pages/
	cp node/data/demo/NOTICE.md build/pages/node/data/demo/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build *.egg-info

# Removed first: a half-made environment, or one of another Python, is not repaired but made anew.
$(STAMP): Makefile constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo 'no Python 3.11 or newer at "$(PYTHON)": make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo "installing into $(VENV): once, some minutes"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@grep '^[a-z]' constraints.txt | grep -v '^libp2p==' > $(VENV)/requirements.txt
	$(PIP) install --quiet --prefer-binary $(FASTECDSA) -r $(VENV)/requirements.txt
	$(PIP) install --quiet --no-deps -c constraints.txt libp2p
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# What benchmarks compare with, over and above what the project needs.
$(VENV)/bench: $(STAMP)
	$(PIP) install --quiet --prefer-binary -c constraints.txt $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])')
	@touch $@
