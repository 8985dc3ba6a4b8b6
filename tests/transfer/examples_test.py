"""Tests that the main functions have doctests, which the suite runs."""

import doctest
import importlib

from tests import house

MODULES = [name for name in house.modules() if name == "tree"
           or house.package(name) == "transfer" and not house.is_folder(name)]


def test_the_main_transfer_functions_have_doctests():
  with_examples = {
      test.name for name in MODULES for test in doctest.DocTestFinder().find(
          importlib.import_module(f"transfer_gen.{name}")) if test.examples}

  assert {f"transfer_gen.transfer.{name}" for name in (
      "plan", "resolve.resolve", "restore.restore", "axes.Grow", "axes.MatchTokens",
      "structure.grow", "structure.depth", "groups.discriminative", "mixtures.focus",
      "suggest.plan")} <= with_examples
