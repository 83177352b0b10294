# make demo   create a virtual environment, install, compile the digits network, run it on real images, print the result
# make test   the same, with the test extra, then run the tests
# make lint   formatter and linter
# make docs   the pages in docs/ as HTML, in $(BUILD)/docs; a warning is an error
# make clean  remove what the others made
#
# PYTHON picks the interpreter (3.11 or newer), VENV and BUILD the folders, PYTEST_ARGS adds options to pytest.

# The first that runs and is new enough; empty when none is.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BUILD ?= build
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# Installed in place, so an edited source needs no new install; changed dependencies do.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL_INPUTS := pyproject.toml constraints.txt
PROGRAM := $(BUILD)/digits.smebin

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	@mkdir -p $(BUILD)
	$(BIN)/smec compile examples/digits_resnet.onnx --calib examples/digits_calib.npz -o $(PROGRAM)
	$(BIN)/smec simulate $(PROGRAM) --input examples/digits_test.npz
	$(BIN)/smec verify examples/digits_resnet.onnx $(PROGRAM) --input examples/digits_test.npz

test: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs $(BUILD)/docs

clean:
	rm -rf $(VENV) $(BUILD) smec.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamps: one for the environment, one for each extra. A stamp is written only when its installation succeeded.
$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(INSTALL_INPUTS)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.created $(INSTALL_INPUTS)
	$(INSTALL) -e ".[$*]"
	@touch $(VENV)/.installed $@
