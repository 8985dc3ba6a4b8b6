"""Tests that every experiment can be read without a device or a data set."""

import importlib
import os
import subprocess
import sys

import pytest

from tests import paths
from transfer_gen import config
from transfer_gen.transfer import plan as plan_lib

NAMES = sorted(path.stem for path in paths.EXPERIMENTS.glob("*.py")
               if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_defines_a_study_and_a_config(name):
  module = importlib.import_module(f"experiments.{name}")

  study, run = module.get_study(), module.get_config()

  assert isinstance(study, config.Study) and study.runs
  for made in (run, *study.runs.values()):
    assert isinstance(made, config.Run)
    plan = made.transfer(made) if callable(made.transfer) else made.transfer
    assert plan is None or isinstance(plan, plan_lib.TransferPlan)


def test_reading_an_experiment_initializes_no_device():
  program = "import importlib\n" + "".join(
      f"importlib.import_module('experiments.{name}').get_study()\n" for name in NAMES)

  # JAX_PLATFORMS=none makes the first use of a device an error.
  read = subprocess.run(
      [sys.executable, "-c", program], cwd=paths.ROOT, capture_output=True, text=True,
      check=False, env={**os.environ, "JAX_PLATFORMS": "none"})

  assert read.returncode == 0, read.stderr
