PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# Files of tests in two processes, each with a Ray session of its own: most of their time is waiting for Ray.
SIDE_BY_SIDE := -n 2 --dist loadfile

# These start clusters of their own, and a process can be connected to one Ray session only.
CLUSTERS := tests/cluster/test_node_deaths.py tests/cluster/test_placement.py

.PHONY: demo test test-long check docs format install clean

demo: $(READY)  ## Render a corpus, extract, train, evaluate, report
	$(BIN)/emi-ray demo -w demo

test: $(READY)  ## Every test but those of test-long
	$(BIN)/pytest $(SIDE_BY_SIDE) $(CLUSTERS:%=--ignore %)
	$(BIN)/pytest $(CLUSTERS)

# Nodes, heads and stores that die under whole commands.
LONG := tests/cluster/test_verbs_without_nodes.py tests/cluster/test_node_deaths.py \
	tests/object_store/test_extraction.py tests/runtime/test_worker_places.py tests/training/test_killed_driver.py \
	tests/jobs

test-long: $(READY)  ## The few tests that take minutes each
	for file in $(LONG); do EMI_RAY_LONG_TESTS=1 $(BIN)/pytest $$file || exit 1; done

check: $(READY)  ## Style, types, architecture and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not slow"

docs: $(READY)  ## The documentation, into site/; a broken link or page is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV): 3 GB. This takes some minutes and prints nothing."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo site
