"""Folders import downwards only, and sizes stay within their budgets."""

import pytest

from tests import house

# From the ground up. A module may import its own folder and those before it; what
# stands beside the folders comes first, but for `__main__`, which imports commands.
ORDER = ("", "config", "formats", "transfer", "data", "models", "adapters", "maps",
         "sources", "train", "distill", "generate", "export", "run", "study",
         "commands")
# `transfer` meets models as specs, data as token lists, Optax as labels; a config may
# be read where there is no device.
APART = (("transfer", ("jax.nn", "flax", "optax", "orbax")),
         ("models", ("optax", "orbax")), ("config", ("jax", "flax", "numpy", "orbax")),
         ("formats", ("flax", "optax")))
MODULES = tuple(house.modules())


@pytest.mark.parametrize("name", [n for n in MODULES if n != "__main__"])
def test_imports_point_down(name):
  mine = ORDER.index(house.package(name))

  above = {other for other in house.imports(name)
           if ORDER.index(house.package(other)) > mine}

  assert not above


def test_no_module_and_no_folder_imports_itself_in_a_circle():
  assert not house.cycles({name: house.imports(name) for name in MODULES})
  assert not house.cycles(house.package_edges())
  assert house.cycles({"a": frozenset("b"), "b": frozenset("a")}) == [("a", "b")]
