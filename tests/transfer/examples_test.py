"""The examples in docstrings run and print what they say."""

import doctest
import importlib

import pytest

from tests import house

MODULES = [name for name in house.modules() if name == "tree"
           or house.package(name) == "transfer" and not house.is_folder(name)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_print_what_they_say(name):
  module = importlib.import_module(f"transfer_gen.{name}")

  assert doctest.testmod(module).failed == 0


def test_the_main_functions_of_the_engine_have_examples():
  with_examples = {
      test.name for name in MODULES for test in doctest.DocTestFinder().find(
          importlib.import_module(f"transfer_gen.{name}")) if test.examples}

  assert {f"transfer_gen.transfer.{name}" for name in (
      "plan", "resolve.resolve", "restore.restore", "axes.Grow", "axes.MatchTokens",
      "structure.grow", "structure.depth", "groups.discriminative", "mixtures.focus",
      "suggest.plan")} <= with_examples
