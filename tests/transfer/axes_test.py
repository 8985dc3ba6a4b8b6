"""Tests for axis maps: what they do to entries, against float64 NumPy."""

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from transfer_gen.transfer import axes
from transfer_gen.transfer import entries
from transfer_gen.transfer import plan as plan_lib

KEY = jax.random.key(3)


def _bind(axis_map, axis, source, target, **more):
  return axis_map.bind(plan_lib.AxisSizes(
      axis=axis, source=source, target=target, **more))


def _random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _apply(value, binding, dim=0, reads=False):
  return np.asarray(entries.apply(value, binding, dim, reads, KEY))


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.booleans())
def test_growing_an_axis_keeps_the_sums_over_it(source, times, dim, by_noise):
  """Copies of a unit share its outgoing weight, so that sums over units are kept."""
  shape = [3, 2, 4]
  shape[dim] = source
  value = _random(*shape, seed=source)
  binding = _bind(axes.Grow(noise=0.3 if by_noise else 0.0), "embed", source,
                  source * times)
  inputs = _random(source, seed=9)

  written = _apply(inputs, binding)
  read = _apply(value, binding, dim, reads=True)

  expected = np.tensordot(value.astype(np.float64), inputs, (dim, 0))
  np.testing.assert_allclose(
      np.tensordot(read.astype(np.float64), written, (dim, 0)), expected,
      rtol=1e-5, atol=1e-5)
  assert set(written.tolist()) == set(inputs.tolist())


@pytest.mark.parametrize("axis, expected", [
    ("embed", [0, 1, 2, 0, 1, 2]), ("heads", [0, 0, 1, 1, 2, 2])])
def test_heads_are_repeated_in_place_and_other_axes_are_tiled(axis, expected):
  assert _bind(axes.Grow(), axis, 3, 6).index.tolist() == expected


def test_extend_repeat_tiles_the_positions():
  table = _random(3, 2)

  longer = _apply(table, _bind(axes.Extend(how="repeat"), "position", 3, 7))

  np.testing.assert_array_equal(longer, table[[0, 1, 2, 0, 1, 2, 0]])


def test_extend_interpolates_linearly_between_positions():
  table = _random(5, 2)

  longer = _apply(table, _bind(axes.Extend(how="interpolate"), "position", 5, 12))

  places = np.linspace(0, 4, 12)
  expected = np.stack(
      [np.interp(places, np.arange(5), table[:, column]) for column in range(2)], 1)
  np.testing.assert_allclose(longer, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(longer[[0, -1]], table[[0, -1]])


def test_extend_draws_positions_beyond_the_source():
  table = _random(64, 3) + 5

  longer = _apply(table, _bind(axes.Extend(), "position", 64, 128))

  np.testing.assert_array_equal(longer[:64], table)
  # The mean of 64 draws with a deviation of 1 has a standard error of 0.13 a column.
  assert abs(longer[64:].mean() - table.mean()) < 0.3
  assert abs(longer[64:].std(0).mean() - table.std(0).mean()) < 0.3


def test_cut_keeps_the_first_positions():
  table = _random(5, 2)

  np.testing.assert_array_equal(
      _apply(table, _bind(axes.Cut(), "position", 5, 3)), table[:3])


def test_fresh_entries_have_the_covariance_of_the_source():
  rng = np.random.default_rng(0)
  table = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 2).astype(np.float32)
  binding = plan_lib.Binding(
      index=np.full(40_000, -1, np.int32), fresh="covariance", note="")

  drawn = _apply(table, binding).astype(np.float64)

  wanted = np.cov(table.T.astype(np.float64), bias=True)
  assert np.abs(np.cov(drawn.T) - wanted).max() < 0.03 * np.abs(wanted).max()
  assert abs(wanted[0, 1]) > 0.1  # Independent draws per column would have 0 here.
  np.testing.assert_allclose(drawn.mean(0), table.mean(0), atol=0.05)


def test_covariance_draws_keep_the_spread_of_each_column():
  kernel = _random(2, 300, 2) * np.array([1, 10], np.float32)
  binding = plan_lib.Binding(
      index=np.full(5000, -1, np.int32), fresh="covariance", note="")

  drawn = _apply(kernel, binding, dim=1)

  assert drawn.shape == (2, 5000, 2)
  np.testing.assert_allclose(drawn.std(1), kernel.std(1), rtol=0.1)


def test_a_mixture_is_a_weighted_sum_of_entries():
  value = _random(2, 4, 3)
  mixture = plan_lib.Mixture(
      rows=np.array([1, 2], np.int32), index=np.array([[0, 3], [2, 2]], np.int32),
      weights=np.array([[0.25, 0.75], [1.0, 0.0]], np.float32))
  binding = plan_lib.Binding(
      index=np.array([1, -1, -1, -1], np.int32), fresh="mean", note="", mixture=mixture)

  mixed = _apply(value, binding, dim=1)

  exact = value.astype(np.float64)
  np.testing.assert_array_equal(mixed[:, 0], value[:, 1])
  np.testing.assert_allclose(
      mixed[:, 1], 0.25 * exact[:, 0] + 0.75 * exact[:, 3], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(mixed[:, 2], value[:, 2], rtol=1e-6)
  np.testing.assert_allclose(mixed[:, 3], exact.mean(1), rtol=1e-5, atol=1e-6)


def test_heads_that_share_bits_with_their_groups_are_averaged():
  value = _random(6, 2)

  means = _apply(value, _bind(axes.MeanGroups(), "kv_heads", 6, 3))

  np.testing.assert_allclose(means, value.reshape(3, 2, 2).mean(1), rtol=1e-6)


def test_select_takes_entries_in_the_given_order():
  value = _random(2, 5)

  np.testing.assert_array_equal(
      _apply(value, _bind(axes.Select(index=(4, 0, 0)), "mlp", 5, 3), dim=1),
      value[:, [4, 0, 0]])


@pytest.mark.parametrize("axis_map, axis, sizes, sentence", [
    (axes.Grow(), "embed", (4, 3), "cannot shrink 4 to 3"),
    (axes.Grow(), "position", (4, 8), "`position` does not keep the function"),
    (axes.Grow(), "hidden", (4, 9), "the nearest is 8"),
    (axes.Select(index=(0, 1)), "mlp", (4, 3), "names 2 entries, and the target has 3"),
    (axes.Select(index=(0, 4)), "mlp", (4, 2), "names entries 0 to 4"),
    (axes.Cut(), "position", (4, 8), "Extend can"),
    (axes.Extend(), "position", (8, 4), "Cut can"),
    (axes.MeanGroups(), "kv_heads", (6, 4), "take 3"),
    (axes.MeanGroups(), "kv_heads", (5, 2), "equal groups of 5; take 1"),
])
def test_a_map_that_cannot_give_the_size_is_refused(axis_map, axis, sizes, sentence):
  with pytest.raises(ValueError, match=sentence):
    _bind(axis_map, axis, *sizes)


@pytest.mark.parametrize("make, message", [
    (lambda: axes.Grow(noise=-1), "noise is -1, must be"),
    (lambda: axes.Extend(how="twice"), "one of fresh, repeat, interpolate"),
    (lambda: axes.Extend(fresh="none"), "covariance"),
])
def test_invalid_axis_map_arguments_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_every_axis_map_round_trips_through_json():
  maps = (axes.MatchTokens(fresh="mean"), axes.Grow(noise=0.1, approximate=True),
          axes.Cut(), axes.Extend(how="repeat"), axes.MeanGroups(),
          axes.Select(index=np.arange(3)))
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=("a", "b")),), groups=(),
      axes=tuple(plan_lib.On(axis="mlp", map=axis_map) for axis_map in maps))

  again = plan_lib.from_json(plan_lib.to_json(plan), plan_lib.arrays(plan))

  assert again.rules == plan.rules
  assert [on.map for on in again.axes[:-1]] == list(maps[:-1])
  np.testing.assert_array_equal(again.axes[-1].map.index, maps[-1].index)
  assert plan_lib.fingerprint(again) == plan_lib.fingerprint(plan)


def test_loading_a_plan_without_its_arrays_is_refused():
  plan = plan_lib.TransferPlan(
      rules=(), groups=(),
      axes=(plan_lib.On(axis="mlp", map=axes.Select(index=np.arange(3))),))

  with pytest.raises(ValueError, match="array .* is not stored with it"):
    plan_lib.from_json(plan_lib.to_json(plan))
