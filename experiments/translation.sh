#!/usr/bin/env bash
# Trains a parent on English to French and studies what it is worth for English to Czech;
# experiments/translation.py says what is compared and what it costs. Makes .venv if it is
# missing, and goes on where it was stopped.
#   bash experiments/translation.sh [WORKDIR]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable .
data="${TRANSFER_GEN_DATA:-data}/multi30k"
folder="${1:-runs/translation}"
mkdir -p "$folder/data"
# Odd lines for the parent and even ones for the child: no caption is in both halves.
for side in en fr; do
  gzip -dc "$data/train.$side.gz" | awk 'NR % 2 == 1' > "$folder/data/parent.$side"
done
for side in en cs; do
  gzip -dc "$data/train.$side.gz" | awk 'NR % 2 == 0' > "$folder/data/child.$side"
done
export TRANSFER_GEN_RUNS="$folder"
run=".venv/bin/python -m transfer_gen"
$run train --config=experiments/translation.py:parent --workdir="$folder/parent"
for part in few many; do
  $run study --config="experiments/translation.py:$part" --workdir="$folder/$part" \
    --results=experiments/RESULTS.md
done
