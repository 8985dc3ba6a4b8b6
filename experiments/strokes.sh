#!/usr/bin/env bash
# Trains a VAE of letters and studies what it is worth for drawing sheep;
# experiments/strokes.py says what is compared and what it costs. Makes .venv if it is
# missing, and goes on where it was stopped.
#   bash experiments/strokes.sh [WORKDIR]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable .
export TRANSFER_GEN_DATA="${TRANSFER_GEN_DATA:-data}"
exec .venv/bin/python -m transfer_gen study --config=experiments/strokes.py \
  --workdir="${1:-runs/strokes}" --results=experiments/RESULTS.md
