"""Tests that a few mutants of data, tokenizers and runs are refused or read rightly.

`python -m benchmarks.trust_data` and its neighbors try thousands.
"""

import json
import signal

import pytest

from benchmarks import forking
from benchmarks import trust_data
from benchmarks import trust_runs
from benchmarks import trust_tokenizers


@pytest.mark.parametrize("module, count", [
    (trust_data, 15), (trust_tokenizers, 15),
    # Its commands compile their models, which takes a minute.
    pytest.param(trust_runs, 16, marks=pytest.mark.long)])
def test_no_mutant_crashes_hangs_or_is_read_wrongly(module, count):
  found = module.run(count, seed=7)

  assert found["failures"] == 0, found
  assert found["refused"] > 0 and found["refused"] + found["loaded"] == count


def _crash(path):
  import os
  os.kill(os.getpid(), signal.SIGSEGV)


def _hang(path):
  signal.pause()


def _fill(path):
  return "loaded" if bytearray(2**28) else "wrong"


def _raise(path):
  raise KeyError(path)


@pytest.mark.parametrize("read, kind", [
    (_crash, "crashed"), (_hang, "hung"), (_raise, "unclear"), (_fill, "large"),
    (lambda path: "wrong", "wrong")])
def test_each_kind_of_failure_is_counted(read, kind):
  result = forking.alone(
      forking.attempt, "a", read, seconds=0.2 if kind == "hung" else 10)

  found = forking.summary([result | {"size": 10}])

  assert found[kind] == 1 and found["failures"] == 1


def test_json_is_also_mutated_as_json():
  data = json.dumps({"a": [1, 2, {"b": "c"}], "d": None}).encode()

  parsed = 0
  for seed in range(100):
    try:
      parsed += json.loads(forking.mutate(data, seed)) != json.loads(data)
    except ValueError:
      continue

  assert 40 < parsed < 90
