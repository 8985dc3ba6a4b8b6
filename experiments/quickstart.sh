#!/usr/bin/env bash
# The main job on real text: trains a source, moves it to another task and vocabulary,
# fine-tunes it, and compares it with training from scratch. Makes .venv if it is missing.
#   bash experiments/quickstart.sh [WORKDIR]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable .
exec .venv/bin/python -m transfer_gen study --config=experiments/quickstart.py \
  --workdir="${1:-runs/quickstart}"
