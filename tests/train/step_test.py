"""Tests for the training step: devices, accumulation, freezing and its cost."""

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen.models import registry
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

ALL = (plan_lib.Group(name="all", params=".*"),)
HEAD = (plan_lib.Group(name="head", params="final_norm/.*|embed/.*"),
        plan_lib.Group(name="body", params=".*", unfreeze_step=None))
MODEL = registry.build(config.Decoder(
    vocab_size=40, num_layers=2, width=16, num_heads=4, mlp_width=32, max_length=8))
SPECS = registry.specs(MODEL)


def _batch(seed, rows=16):
  generator = np.random.default_rng(seed)
  tokens = generator.integers(0, 40, (rows, 9)).astype(np.int32)
  # Two documents a row, which begin elsewhere in each row: they are split like inputs.
  steps, begins = np.arange(8)[None], generator.integers(1, 8, (rows, 1))
  positions = np.where(steps < begins, steps, steps - begins).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "positions": positions,
          "weights": (generator.random((rows, 8)) < 0.8).astype(np.float32)}


def _setup(groups=ALL, **optim_fields):
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),), groups=groups)
  rows = resolve.resolve(plan, {}, SPECS)
  optimizer = optim.build(
      config.Optim(warmup_steps=0, lr=0.01, **optim_fields), groups, rows, 100)
  params = registry.fresh(MODEL, jax.random.key(1))(SPECS)
  return optimizer, step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=optimizer.extend({}, params, 0))


def _losses(devices, steps=20, accumulate=1, rows=16):
  optimizer, state = _setup()
  runner = parallel.make_runner(
      devices, SPECS, rows, accumulate, optimizer=optimizer,
      nll_fn=objectives.next_token(MODEL, False))
  state, losses = runner.place(state), []
  for step in range(steps):
    state, metrics = runner.step(
        state, runner.put(_batch(step, rows)), jax.random.key(0))
    total, count = jax.device_get(metrics["loss"])
    losses.append(total / count)
  return losses, jax.device_get(runner.fetch(state).params)


@functools.cache
def _one_device():
  optimizer, state = _setup()
  step = jax.jit(functools.partial(
      step_lib.train_step, nll_fn=objectives.next_token(MODEL, False),
      optimizer=optimizer, key=jax.random.key(0)))
  losses = []
  for number in range(20):
    state, metrics = step(state, _batch(number))
    losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
  return losses, jax.device_get(state.params)


@pytest.mark.parametrize("devices", [
    pytest.param(config.Parallel(), marks=pytest.mark.long),
    config.Parallel(fsdp=2, tensor=4),
    pytest.param(config.Parallel(data=2, fsdp=4), marks=pytest.mark.long),
    pytest.param(config.Parallel(mode="pmap"), marks=pytest.mark.long)],
    ids=["data", "fsdp_tensor", "data_fsdp", "pmap"])
def test_eight_devices_give_the_same_losses_as_one(devices):
  losses, _ = _losses(devices)

  np.testing.assert_allclose(losses, _one_device()[0], rtol=1e-5)
  assert losses[-1] != losses[0]


def test_params_are_sharded_over_the_mesh():
  optimizer, state = _setup()
  runner = parallel.make_runner(
      config.Parallel(fsdp=2, tensor=4), SPECS, 16, 1, optimizer=optimizer,
      nll_fn=objectives.next_token(MODEL, False))

  state, _ = runner.step(
      runner.place(state), runner.put(_batch(0)), jax.random.key(0))

  up = state.params["layer_0/mlp/up/kernel"]  # f32[16, 32] over fsdp, tensor.
  assert up.addressable_shards[0].data.shape == (8, 8)
  # The moments of the optimizer are sharded like their param.
  moments = jax.tree.leaves({
      name: value for name, value in _by_name(state.opt_state)
      if "layer_0/mlp/up/kernel" in name})
  assert {moment.addressable_shards[0].data.shape for moment in moments} == {(8, 8)}


def _by_name(tree):
  return [(jax.tree_util.keystr(path), leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_accumulated_gradients_equal_those_of_the_whole_batch():
  whole, params = _one_device()

  parts, accumulated = _losses(config.Parallel(), accumulate=2)

  np.testing.assert_allclose(parts, whole, rtol=1e-5)
  np.testing.assert_allclose(
      accumulated["embed/embedding"], params["embed/embedding"], atol=2e-4)


@functools.cache
def _compiled(groups):
  optimizer, state = _setup(groups)
  step = jax.jit(functools.partial(
      step_lib.train_step, nll_fn=objectives.next_token(MODEL, False),
      optimizer=optimizer, key=jax.random.key(0)))
  return step.lower(state, _batch(0)).compile(), state


def test_a_step_changes_exactly_the_leaves_that_learn():
  step, state = _compiled(HEAD)

  after, _ = step(state, _batch(0))

  for name, value in state.params.items():
    frozen = name.split("/")[0] not in ("embed", "final_norm")
    assert np.array_equal(value, after.params[name]) == frozen, name


def test_freezing_does_not_change_the_other_gradients():
  nll_fn = objectives.next_token(MODEL, False)
  batch = _batch(0)
  mean = lambda params: ((nll_fn(params, batch, None) * batch["weights"]).sum()
                         / batch["weights"].sum())
  optimizer, state = _setup(HEAD, name="sgd", b1=0.0, clip_norm=0.0,
                            weight_decay=0.0, schedule="constant")
  grads = jax.jit(jax.grad(mean))(state.params)

  after, metrics = jax.jit(functools.partial(
      step_lib.train_step, nll_fn=nll_fn, optimizer=optimizer,
      key=jax.random.key(0)))(state, batch)

  for name in optimizer.learning(state.opt_state):
    np.testing.assert_allclose(
        after.params[name], state.params[name] - 0.01 * grads[name], atol=1e-6)
  norm = sum((np.asarray(grads[name], np.float64) ** 2).sum()
             for name in optimizer.learning(state.opt_state)) ** 0.5
  assert float(metrics["grad_norm"][0]) == pytest.approx(norm, rel=1e-5)


def test_training_only_the_final_norm_skips_other_weight_gradients():
  """XLA drops the gradients of frozen leaves, also with clipping and a logged norm."""
  frozen_top = (
      plan_lib.Group(name="final", params="final_norm/.*"),
      plan_lib.Group(name="rest", params=".*", unfreeze_step=None))

  full = _compiled(ALL)[0].cost_analysis()["flops"]
  last = _compiled(frozen_top)[0].cost_analysis()["flops"]

  # A full step costs about three forward passes. Here the backward pass ends at the
  # output, so that the step costs little more than one.
  assert last < 0.55 * full


def test_a_batch_not_divisible_over_the_devices_is_refused():
  with pytest.raises(ValueError, match="make it a multiple of 8"):
    parallel.make_runner(config.Parallel(), SPECS, 12, 1)
  with pytest.raises(ValueError, match="there are 8 devices"):
    parallel.make_runner(config.Parallel(data=3), SPECS, 12, 1)
  with pytest.raises(ValueError, match="pmap keeps every param whole"):
    parallel.make_runner(config.Parallel(mode="pmap", tensor=2), SPECS, 16, 1)


def _number(each, params, batch, key):
  """A number drawn with the step's key, or one for each token, later ones larger."""
  del params
  shape = batch["weights"].shape
  if each:
    order = jnp.arange(shape[0] * shape[1]).reshape(shape)
    return jax.random.uniform(key, shape) * order
  return jax.random.uniform(key) * jnp.ones(shape)


def _whole():
  """A batch in which all targets count, so that devices and parts weigh the same."""
  return _batch(0) | {"weights": np.ones((16, 8), np.float32)}


def _drawn(steps=1, each=False, **devices):
  """Returns the loss of each step where it is `_number`."""
  optimizer, state = _setup()
  runner = parallel.make_runner(
      config.Parallel(**devices), SPECS, 16, 1, optimizer=optimizer,
      nll_fn=functools.partial(_number, each))
  state, losses = runner.place(state), []
  for _ in range(steps):
    state, metrics = runner.step(state, runner.put(_whole()), jax.random.key(0))
    total, count = jax.device_get(metrics["loss"])
    losses.append(float(np.ravel(total)[0] / np.ravel(count)[0]))
  return losses


def test_each_step_draws_dropout_masks_of_its_own():
  first, second = _drawn(steps=2)

  assert first != second
  assert _drawn(steps=2) == [first, second]  # And the same ones if it is taken again.


def test_parts_of_a_batch_draw_dropout_masks_of_their_own():
  key = jax.random.fold_in(jax.random.key(0), 0)
  numbers = [float(jax.random.uniform(jax.random.fold_in(key, part)))
             for part in range(2)]

  optimizer, state = _setup()
  # On one device: XLA's CPU backend now and then aborts where simulated devices meet in
  # a loop whose gradients are all 0.
  _, metrics = jax.jit(functools.partial(
      step_lib.train_step, nll_fn=functools.partial(_number, False),
      optimizer=optimizer, key=jax.random.key(0), accumulate=2))(state, _whole())

  assert numbers[0] != numbers[1]
  total, count = metrics["loss"]
  assert total / count == pytest.approx(np.mean(numbers))


def test_devices_of_pmap_draw_dropout_masks_of_their_own():
  key = jax.random.fold_in(jax.random.key(0), 0)
  numbers = [float(jax.random.uniform(jax.random.fold_in(key, device)))
             for device in range(jax.device_count())]

  assert len(set(numbers)) == 8
  assert _drawn(mode="pmap") == [pytest.approx(np.mean(numbers))]


def test_dropout_masks_of_jit_do_not_depend_on_the_mesh():
  key = jax.random.fold_in(jax.random.key(0), 0)
  numbers = np.asarray(jax.random.uniform(key, (16, 8)), np.float64)
  want = (numbers * np.arange(128).reshape(16, 8)).mean()

  for devices in (dict(), dict(fsdp=2, tensor=4), dict(data=2, fsdp=4)):
    assert _drawn(each=True, **devices) == [pytest.approx(want, rel=1e-6)]
