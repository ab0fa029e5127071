# What to run before a commit: the linters, and all tests but the slow ones.
BIN := .venv/bin

.PHONY: check lint test
check: lint test

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test:
	$(BIN)/python -m pytest -q -n 2 --dist=loadfile -m "not slow"
