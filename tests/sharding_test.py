"""Tests for meshes, and for how leaves are divided over them."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen import sharding
from transfer_gen import tree


def _spec(shape, *axes):
  return tree.specs({"x": jax.ShapeDtypeStruct(shape, jnp.float32)}, {"x": axes})["x"]


def _parts(shape, axes, sizes, rules=()):
  found = sharding.divide(_spec(shape, *axes), sharding.abstract_mesh(sizes), rules)
  return tuple(found.spec), found.undivided


@pytest.mark.parametrize("asked, devices, fitting", [
    ((0, 5, 1), 32, (8, 4, 1)), ((3, 1, 1), 8, (8, 1, 1)), ((0, 4, 6), 32, (2, 4, 4)),
    ((0, 16, 1), 8, (1, 8, 1))])
def test_a_mesh_that_does_not_fit_is_refused_with_one_that_does(
    asked, devices, fitting):
  with pytest.raises(errors.UserError) as refused:
    sharding.mesh_sizes(*asked, devices)

  data, fsdp, tensor = fitting
  assert str(refused.value).endswith(
      f"This would fit: data={data}, fsdp={fsdp}, tensor={tensor}.")
  assert sharding.mesh_sizes(*fitting, devices) == fitting


def test_a_mesh_without_devices_divides_as_one_with_devices():
  shape, axes = (8, 6, 4), ("embed", "heads", "kv")
  specs = {"x": _spec(shape, *axes)}
  real = sharding.of_params(specs, sharding.make_mesh(2, 2, 2))["x"]

  planned = sharding.of_params(specs, sharding.abstract_mesh((2, 2, 2)))["x"]

  placed = jax.device_put(np.zeros(shape, np.float32), real)
  assert planned.shard_shape(shape) == placed.addressable_shards[0].data.shape
  assert planned.shard_shape(shape) == (4, 3, 4)


@pytest.mark.parametrize("rules, expected", [
    ((), ("fsdp", "tensor", None)),
    ((("kv", "tensor"), ("heads", "none")), ("fsdp", None, "tensor")),
    ((("embed", "data"),), ("data", "tensor", "fsdp")),
    # Of several rules for an axis, the first that divides its size.
    ((("heads", "data"), ("embed", "none")), (None, "tensor", "fsdp"))])
def test_rules_come_before_the_defaults(rules, expected):
  parts, undivided = _parts((8, 6, 4), ("embed", "heads", "kv"), (4, 4, 2), rules)

  assert parts == expected and not undivided


def test_fsdp_divides_another_dimension_where_it_does_not_divide_embed():
  assert _parts((6, 16, 8), ("embed", "mlp", "kv"), (1, 8, 2))[0] == (
      None, "tensor", "fsdp")
  assert _parts((6, 16, 8), ("embed", "mlp", "kv"), (1, 8, 1))[0] == (
      None, "fsdp", None)
  # With no rule for any axis, the largest dimension that it divides.
  assert _parts((5, 8, 16), ("gates", "kv", "position"), (1, 8, 1))[0] == (
      None, None, "fsdp")


def test_what_no_mesh_axis_divides_is_named():
  parts, undivided = _parts((7, 6, 8), ("embed", "heads", "kv"), (1, 4, 4))
  table, whole = _parts((27, 9), ("vocab", "embed"), (1, 4, 4))

  assert parts == (None, None, "fsdp") and table == (None, None)
  assert undivided == (sharding.Undivided(
      axis="heads", size=6, mesh_axis="tensor", devices=4, other="kv"),)
  assert {(one.axis, one.size, one.mesh_axis) for one in whole} == {
      ("vocab", 27, "tensor"), ("embed", 9, "fsdp")}
  specs = {"a": _spec((27, 8), "vocab", "embed"), "b": _spec((8,), "embed")}
  assert sharding.undivided(specs, sharding.abstract_mesh((1, 4, 4))).keys() == {"a"}


def test_an_axis_that_would_do_instead_is_proposed_and_does():
  _, (undivided,) = _parts((8, 6, 8), ("embed", "heads", "kv"), (1, 1, 4))

  assert undivided.other == "kv"
  rules = ((undivided.other, undivided.mesh_axis),)
  assert _parts((8, 6, 8), ("embed", "heads", "kv"), (1, 1, 4), rules) == (
      ("fsdp", None, "tensor"), ())


def test_a_rule_for_an_axis_that_no_leaf_carries_is_refused():
  specs = {"x": _spec((8, 6), "embed", "mlp")}

  with pytest.raises(errors.UserError, match="axis `embde`. Nearest: embed"):
    sharding.check_rules((("embde", "fsdp"),), specs)
  sharding.check_rules((("mlp", "none"),), specs)
