#!/usr/bin/env bash
# Linter, type checker and the whole test suite, in .venv; makes it where it is missing.
#   bash tests/run.sh [PYTEST ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable ".[test]"
.venv/bin/ruff check .
.venv/bin/pyrefly check --summary=none --output-format=min-text
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile -q "$@"
