"""Tests for the optimizer: groups, schedules, weight decay and its state."""

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from transfer_gen import config
from transfer_gen import tree
from transfer_gen.train import optim
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

PARAMS = {"body/bias": jnp.ones((3,)), "body/kernel": jnp.ones((2, 3)),
          "head/kernel": jnp.full((3, 2), 2.0), "old/kernel": jnp.ones((4, 4))}
GRADS = {name: jnp.full_like(value, 0.1) for name, value in PARAMS.items()}
TABLE = {".*kernel": ("embed", "mlp"), ".*bias": ("mlp",)}
GROUPS = (plan_lib.Group(name="head", params="head/.*"),
          plan_lib.Group(name="body", params="body/.*", lr_mult=0.1),
          plan_lib.Group(name="old", params=".*", unfreeze_step=None))


def _build(groups=GROUPS, steps=100, **fields):
  specs = tree.specs(PARAMS, TABLE)
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),), groups=groups)
  rows = resolve.resolve(plan, {}, specs)
  return optim.build(config.Optim(**fields), groups, rows, steps)


def _slots(state):
  """Returns the number of entries in the state, without scalar counters."""
  return sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)


def test_frozen_leaves_have_no_optimizer_state():
  optimizer = _build()

  state = optimizer.extend({}, PARAMS, 0)

  assert set(state) == {"head", "body"}
  assert _slots(state) == 2 * (3 + 6 + 6)  # Two moments of each param that learns.
  assert optimizer.learning(state) == {"body/bias", "body/kernel", "head/kernel"}


def test_adamw_with_rate_multipliers_matches_a_float64_reference():
  optimizer = _build(schedule="constant", warmup_steps=0, lr=0.01, clip_norm=0.0,
                     weight_decay=0.5, b1=0.9, b2=0.99)
  learning, _ = tree.partition(
      PARAMS, optimizer.learning(optimizer.extend({}, PARAMS, 0)))
  state, params = optimizer.extend({}, PARAMS, 0), learning
  for factor in (1.0, -3.0):
    grads = {name: factor * GRADS[name] for name in learning}
    params, state, _ = optimizer.update(grads, state, params)

  for name, rate, decay in (
      ("head/kernel", 0.01, 0.5), ("body/kernel", 0.001, 0.5),
      ("body/bias", 0.001, 0.0)):
    value, m, v = np.asarray(PARAMS[name], np.float64), 0.0, 0.0
    for count, grad in ((1, 0.1), (2, -0.3)):
      m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad ** 2
      step = (m / (1 - 0.9 ** count)) / (np.sqrt(v / (1 - 0.99 ** count)) + 1e-8)
      value = value - rate * (step + decay * value)
    np.testing.assert_allclose(params[name], value, rtol=1e-6)


def test_clipping_uses_the_global_norm_of_all_learning_leaves():
  optimizer = _build(name="sgd", b1=0.0, schedule="constant", warmup_steps=0, lr=1.0,
                     clip_norm=0.01, weight_decay=0.0)
  state = optimizer.extend({}, PARAMS, 0)
  learning, _ = tree.partition(PARAMS, optimizer.learning(state))
  grads = {name: GRADS[name] for name in learning}

  new, _, norm = optimizer.update(grads, state, learning)

  assert norm == pytest.approx(0.1 * 15 ** 0.5, rel=1e-6)
  # Dividing by the rate of each group gives the clipped gradient.
  moved = np.concatenate([
      np.ravel(learning[name] - new[name]) / (0.1 if name.startswith("body") else 1.0)
      for name in learning])
  assert np.linalg.norm(moved) == pytest.approx(0.01, rel=1e-4)


def test_a_late_group_starts_with_fresh_optimizer_state():
  late = (plan_lib.Group(name="head", params="head/.*"),
          plan_lib.Group(name="body", params="body/.*", unfreeze_step=5),
          GROUPS[2])
  optimizer = _build(late, schedule="constant", warmup_steps=0, lr=0.01,
                     clip_norm=0.0, weight_decay=0.0)
  state, params = optimizer.extend({}, PARAMS, 0), dict(PARAMS)
  for step in range(8):
    state = optimizer.extend(state, params, step)
    names = optimizer.learning(state)
    assert ("body/kernel" in names) == (step >= 5)
    before = params["body/kernel"]
    new, state, _ = optimizer.update(
        {name: GRADS[name] for name in names}, state,
        {name: params[name] for name in names})
    params |= new
    # With constant gradients, a new Adam moves by the learning rate. With the count of
    # the other groups, its bias correction would be wrong by a factor of up to 6.5.
    if step >= 5:
      np.testing.assert_allclose(before - new["body/kernel"], 0.01, rtol=1e-4)
  assert optax.tree.get(state["body"], "mu")["body/kernel"].shape == (2, 3)


@pytest.mark.parametrize("name, middle", [
    ("cosine", 0.55), ("linear", 0.55), ("slanted", 0.55), ("constant", 1.0),
    ("inverse_sqrt", None)])
def test_schedules_warm_up_and_decay(name, middle):
  rate = optim.schedule(
      config.Optim(schedule=name, warmup_steps=10, end_factor=0.1), 110, 2.0)

  assert 0 < rate(0) < rate(5) < rate(10) == pytest.approx(2.0)
  if middle is None:
    assert rate(40) == pytest.approx(2.0 * (10 / 40) ** 0.5)
  else:
    assert rate(60) == pytest.approx(2.0 * middle)
  ends = {"cosine": 0.2, "linear": 0.2, "slanted": 0.2, "constant": 2.0,
          "inverse_sqrt": 0.603}
  assert rate(110) == pytest.approx(ends[name], rel=1e-3)


def test_a_schedule_that_is_shorter_than_its_warm_up_still_reaches_its_peak():
  for steps in (1, 2, 5):
    rate = optim.schedule(config.Optim(warmup_steps=10), steps, 2.0)

    assert rate(steps - 1) == pytest.approx(2.0)
    assert rate(0) == pytest.approx(2.0 / steps)


def test_slanted_is_the_formula_of_its_paper():
  steps, ratio, cut_frac, peak = 200, 32, 0.1, 0.01
  rate = optim.schedule(
      config.Optim(schedule="slanted", warmup_steps=20, end_factor=1 / ratio), steps,
      peak)

  cut = int(steps * cut_frac)  # Howard and Ruder (2018), equation 3.
  for t in range(0, steps, 7):
    p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
    assert rate(t) == pytest.approx(peak * (1 + p * (ratio - 1)) / ratio, rel=1e-5), t
  assert rate(0) == pytest.approx(peak / ratio) and rate(cut) == pytest.approx(peak)


def test_the_slanted_warm_up_of_a_late_group_is_a_share_of_what_is_left():
  late = [plan_lib.Group(name="head", params="head/.*"),
          plan_lib.Group(name="body", params=".*", unfreeze_step=50)]
  optimizer = _build(late, schedule="slanted", warmup_steps=20, lr=0.01, clip_norm=0.0,
                     weight_decay=0.0, end_factor=0.0, name="sgd", b1=0.0)
  state = {"body": optimizer.extend({}, PARAMS, 50)["body"]}
  params, moved = {name: PARAMS[name] for name in optimizer.members["body"]}, []
  grads = {name: GRADS[name] for name in params}

  for _ in range(12):
    new, state, _ = optimizer.update(grads, state, params)
    moved.append(float(abs(new["body/kernel"] - params["body/kernel"]).max()))
    params = new

  assert moved.index(max(moved)) == 10  # Of 50 steps that are left of 100.


@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd", "lion"])
def test_each_optimizer_lowers_the_loss(name):
  optimizer = _build(name=name, lr=0.05, warmup_steps=0)
  loss = lambda params: sum(jnp.sum(value ** 2) for value in params.values())
  state = optimizer.extend({}, PARAMS, 0)
  params, _ = tree.partition(PARAMS, optimizer.learning(state))
  first = loss(params)

  for _ in range(20):
    params, state, _ = optimizer.update(jax.grad(loss)(params), state, params)

  assert loss(params) < 0.9 * first


@pytest.mark.parametrize("fields, message", [
    (dict(name="adam"), "adamw, adafactor, sgd, lion"),
    (dict(schedule="step"), "optim.schedule is 'step'"),
    (dict(lr=-1.0), "optim.lr is -1.0, must be a number"),
    (dict(lr=float("nan")), "optim.lr is nan"),
    (dict(accumulate=0), "optim.accumulate is 0"),
])
def test_an_invalid_optimizer_setting_is_refused_by_name(fields, message):
  with pytest.raises(ValueError, match=message):
    _build(**fields)


def test_a_plan_where_nothing_learns_is_refused():
  frozen = (plan_lib.Group(name="all", params=".*", unfreeze_step=None),)

  with pytest.raises(ValueError, match="No group learns"):
    _build(frozen)


LATE = (plan_lib.Group(name="head", params="head/.*"),
        plan_lib.Group(name="body", params="body/.*", unfreeze_step=5), GROUPS[2])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.floats(-3, 3), min_size=6, max_size=6),
                min_size=4, max_size=4))
def test_a_late_group_is_updated_like_a_new_adamw(gradients):
  """The reference is optax.adamw with only the leaves of the group, and float64."""
  optimizer = _build(LATE, warmup_steps=0, lr=0.01, clip_norm=0.0, weight_decay=0.1)
  state, params = optimizer.extend({}, PARAMS, 0), dict(PARAMS)
  for _ in range(5):  # The other group learns from step 0.
    names = optimizer.learning(state)
    new, state, _ = optimizer.update(
        {name: GRADS[name] for name in names}, state,
        {name: params[name] for name in names})
    params |= new
  state = optimizer.extend(state, params, 5)
  alone = {"body/kernel": params["body/kernel"]}
  # The schedule of the run has 100 steps; the group begins at step 5.
  tx = optax.adamw(optax.cosine_decay_schedule(0.01, 95, 0.1), b2=0.98,
                   weight_decay=0.1)
  their_state, m, v = tx.init(alone), 0.0, 0.0

  for count, row in enumerate(gradients):
    grads = {name: GRADS[name] for name in optimizer.learning(state)}
    grads["body/kernel"] = jnp.asarray(row, jnp.float32).reshape(2, 3)
    before = np.asarray(params["body/kernel"], np.float64)
    new, state, _ = optimizer.update(
        grads, state, {name: params[name] for name in grads})
    params |= new
    updates, their_state = tx.update(
        {"body/kernel": grads["body/kernel"]}, their_state, alone)
    alone = optax.apply_updates(alone, updates)

    np.testing.assert_allclose(
        params["body/kernel"], alone["body/kernel"], rtol=1e-6)
    grad = np.asarray(grads["body/kernel"], np.float64)
    m, v = 0.9 * m + 0.1 * grad, 0.98 * v + 0.02 * grad ** 2
    step = (m / (1 - 0.9 ** (count + 1))) / (
        np.sqrt(v / (1 - 0.98 ** (count + 1))) + 1e-8)
    rate = 0.01 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * count / 95)))
    moved = np.linalg.norm(np.asarray(params["body/kernel"], np.float64) - before)
    assert moved <= 1.0001 * np.linalg.norm(rate * (step + 0.1 * before)) + 1e-6


@pytest.mark.parametrize("step, size", [(0, 6), (5, 6 + 3 + 6)])
def test_the_state_has_two_moments_per_learning_leaf(step, size):
  optimizer = _build(LATE)

  state = jax.eval_shape(lambda params: optimizer.extend({}, params, step), PARAMS)

  leaves = jax.tree.leaves(state)
  slots = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if leaf.shape)
  assert slots == 2 * 4 * size
  counters = [leaf for leaf in leaves if not leaf.shape]
  assert len(counters) == 2 * len(state)  # One of Adam and one of the schedule.
  assert {leaf.dtype for leaf in counters} == {jnp.dtype("int32")}


def test_a_group_schedule_starts_when_the_group_unfreezes():
  """Lion without momentum moves each param by exactly the learning rate."""
  groups = (plan_lib.Group(name="head", params="head/.*", schedule="linear",
                           lr_mult=2.0),
            plan_lib.Group(name="body", params="body/.*", unfreeze_step=2,
                           schedule="linear"), GROUPS[2])
  optimizer = _build(groups, steps=10, name="lion", b1=0.0, b2=0.0, lr=0.1,
                     warmup_steps=0, end_factor=0.0, weight_decay=0.0,
                     schedule="constant", clip_norm=0.0)
  state, params, moves = {}, dict(PARAMS), {"head/kernel": [], "body/kernel": []}
  for step in range(5):
    state = optimizer.extend(state, params, step)
    names = optimizer.learning(state)
    new, state, _ = optimizer.update(
        {name: GRADS[name] for name in names}, state,
        {name: params[name] for name in names})
    for name in moves.keys() & names:
      moves[name].append(float((params[name] - new[name])[0, 0]))
    params |= new

  np.testing.assert_allclose(
      moves["head/kernel"], [0.2 * (1 - i / 10) for i in range(5)], rtol=1e-4)
  np.testing.assert_allclose(
      moves["body/kernel"], [0.1 * (1 - i / 8) for i in range(3)], rtol=1e-4)


@pytest.mark.parametrize("fields, kernel, bias", [
    ({}, 0.5, 0.0), (dict(weight_decay=0.2), 0.2, 0.0),
    (dict(weight_decay=0.0), 0.0, 0.0),
    (dict(no_decay=""), 0.5, 0.5), (dict(no_decay=".*kernel"), 0.0, 0.5)])
@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_a_group_can_set_its_own_weight_decay(name, fields, kernel, bias):
  group = plan_lib.Group(name="body", params="body/.*", **fields)
  optimizer = _build(
      (group, plan_lib.Group(name="rest", params=".*", unfreeze_step=None)), name=name,
      lr=0.1, weight_decay=0.5, schedule="constant", warmup_steps=0)
  mine = {leaf: PARAMS[leaf] for leaf in ("body/bias", "body/kernel")}

  new, _, _ = optimizer.update(
      jax.tree.map(jnp.zeros_like, mine), optimizer.extend({}, PARAMS, 0), mine)

  np.testing.assert_allclose(new["body/kernel"], 1 - 0.1 * kernel, rtol=1e-6)
  np.testing.assert_allclose(new["body/bias"], 1 - 0.1 * bias, rtol=1e-6)


@pytest.mark.parametrize("fields, message", [
    (dict(schedule="step"), "Group 'x'.schedule is 'step', must be one of cosine"),
    (dict(unfreeze_step=100), "Group 'x': unfreeze_step is 100, and the run ends"),
])
def test_an_invalid_group_is_refused_by_name(fields, message):
  with pytest.raises(ValueError, match=message):
    _build((plan_lib.Group(name="x", params=".*", **fields),))
