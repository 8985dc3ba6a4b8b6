"""Tests for the description of what a run was made with."""

from importlib import metadata

import jax

from tests import counting
from transfer_gen.run import environment


def test_a_process_reads_the_versions_of_its_packages_once():
  first = environment.describe()
  first["versions"] = {}  # Whoever gets a description may change it.

  with counting.calls((metadata, "distributions")) as counts:
    again = environment.describe()

  assert not counts
  assert again["versions"]["jax"] == jax.__version__
  assert len(again["devices"]) == jax.device_count()
