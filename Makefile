# make demo    a controller and two nodes on this machine, a rule, a proof   (SRC= DST= KEEP=1)
# make test    all tests                                                   (ARGS= for pytest)
# make check   format, lint, types, warnings and sanitizers of the C code
# make fuzz    every decoder of what others send, SECONDS=60 each (DECODERS= for some of those in Python)
# make bench   against rsync, as root        (CASES= RUNS=), into tests/bench/RESULTS.md
# make fidelity  what is kept of each attribute, beside rsync, as root, into tests/e2e/FIDELITY.md
# make bench-live    against lsyncd and Syncthing, as root (CASES= RUNS=), into tests/bench/LIVE.md
# make faults        every fault on real kernels, as root (SECONDS= SEED=), into tests/faults/FAULTS.md
# make rpm           packages for EL9 and its like, into dist/ (PYTHON= of the version that the hosts have)
# make venv    .venv with the package, editable, and what the tests need

VENV ?= .venv
RUNS ?= 3
SECONDS ?= 60
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
C_SOURCES := $(wildcard native/src/*.c)
C_HEADERS := $(wildcard native/include/*.h native/src/*.h)

.PHONY: demo test check fuzz bench bench-live fidelity faults rpm venv native-check clean

demo: venv
	@$(BIN)/python tests/e2e/demo.py $(if $(SRC),--source '$(SRC)') $(if $(DST),--target '$(DST)') \
		$(if $(filter-out 0,$(KEEP)),--keep)

# They wait more than they work: four at a time, those of a file after each other.
test: venv
	$(BIN)/python -m pytest -n 4 --dist loadfile $(ARGS)

check: venv native-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

native-check: venv
	$(MAKE) -j$(shell nproc) --output-sync=target -C tests/native SECONDS=6 PYTHON='$(abspath $(BIN)/python)'

# A crash stands in build/ when it is over, and belongs into the corpus once it is mended.
fuzz: venv
	$(BIN)/python -m pip install -q --disable-pip-version-check 'atheris>=3'
	$(MAKE) -C tests/native fuzz SECONDS=$(SECONDS) PYTHON='$(abspath $(BIN)/python)'
	$(BIN)/python tests/fuzz/run.py $(SECONDS) build/fuzz $(DECODERS)

bench: venv
	$(BIN)/python tests/bench/run.py --runs $(RUNS) --results tests/bench/results.json $(CASES)
	$(BIN)/python tests/bench/results.py tests/bench/results.json >tests/bench/RESULTS.md

bench-live: venv
	$(BIN)/python tests/bench/live.py --runs $(RUNS) --results tests/bench/live.json $(CASES)
	$(BIN)/python tests/bench/live_results.py tests/bench/live.json >tests/bench/LIVE.md

fidelity: venv
	$(BIN)/python tests/e2e/fidelity.py >tests/e2e/FIDELITY.md.new
	mv tests/e2e/FIDELITY.md.new tests/e2e/FIDELITY.md

faults: venv
	$(BIN)/python tests/faults/campaign.py --seconds $(or $(SECONDS),900) --seed $(or $(SEED),1) \
		>tests/faults/FAULTS.md.new
	mv tests/faults/FAULTS.md.new tests/faults/FAULTS.md

rpm:
	@[ -n '$(PYTHON)' ] || { echo 'make rpm needs Python 3.11 or later: make rpm PYTHON=...' >&2; exit 1; }
	packaging/make-rpm $(PYTHON)

venv: $(VENV)/.installed $(VENV)/.built

$(VENV)/.installed: pyproject.toml setup.py
	@[ -n '$(PYTHON)' ] || { echo 'i2node needs Python 3.11 or later: make PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check 'setuptools>=77' 'cffi>=1.17'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[test]'
	@touch $@ $(VENV)/.built

$(VENV)/.built: $(VENV)/.installed native/build_mover.py $(C_SOURCES) $(C_HEADERS)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

clean:
	rm -rf $(VENV) build dist agent/*.egg-info .mypy_cache .ruff_cache .hypothesis
	rm -f agent/i2node/mover/_mover*.so agent/i2node/mover/_mover.c
	find agent tests native -name __pycache__ -type d -prune -exec rm -rf {} +
