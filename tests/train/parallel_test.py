"""Tests for encoder inputs and for restoring states on several devices."""

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

MODEL = registry.build(config.Recurrent(
    vocab_size=20, encoder_vocab_size=12, encoder=True, num_layers=1, embed_width=8,
    hidden_width=8))
SPECS = registry.specs(MODEL)
ROWS = 16


def _batch(seed):
  generator = np.random.default_rng(seed)
  tokens = generator.integers(0, 20, (ROWS, 6)).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": (generator.random((ROWS, 5)) < 0.8).astype(np.float32),
          "encoder_inputs": generator.integers(0, 12, (ROWS, 7)).astype(np.int32),
          "encoder_counts": generator.integers(1, 8, (ROWS,)).astype(np.int32)}


def _setup():
  groups = (plan_lib.Group(name="all", params=".*"),)
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),), groups=groups)
  optimizer = optim.build(config.Optim(warmup_steps=0, lr=0.01), groups,
                          resolve.resolve(plan, {}, SPECS), 100)
  params = registry.fresh(MODEL, jax.random.key(1))(SPECS)
  return optimizer, step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=optimizer.extend({}, params, 0))


def _losses(step, state, put=None):
  losses = []
  for number in range(4):
    batch = _batch(number)
    state, metrics = step(state, put(batch) if put else batch, jax.random.key(0))
    # On several devices, no step is in flight behind another: `parallel._waited`.
    assert not put or all(
        leaf.is_ready() for leaf in jax.tree.leaves((state, metrics)))
    total, count = jax.device_get(metrics["loss"])
    losses.append(total / count)
  return losses


@functools.cache
def _one_device():
  optimizer, state = _setup()
  return _losses(jax.jit(lambda state, batch, key: step_lib.train_step(
      state, batch, nll_fn=objectives.next_token(MODEL, False), optimizer=optimizer,
      key=key)), state)


@pytest.mark.parametrize("devices, accumulate", [
    pytest.param(config.Parallel(fsdp=2, tensor=2), 2, id="mesh"),
    pytest.param(config.Parallel(mode="pmap"), 1, id="pmap", marks=pytest.mark.long)])
def test_encoder_inputs_are_split_over_devices_like_inputs(
    devices, accumulate):
  optimizer, state = _setup()
  runner = parallel.make_runner(
      devices, SPECS, ROWS, accumulate, optimizer=optimizer,
      nll_fn=objectives.next_token(MODEL, False))

  losses = _losses(runner.step, runner.place(state), runner.put)

  np.testing.assert_allclose(losses, _one_device(), rtol=1e-5)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_a_state_restored_from_abstract_shapes_is_unchanged(mode):
  """A run resumes from `abstract`, which needs shardings on a mesh in both modes."""
  optimizer, state = _setup()
  runner = parallel.make_runner(
      config.Parallel(mode=mode), SPECS, ROWS, 1, optimizer=optimizer,
      nll_fn=objectives.next_token(MODEL, False))

  shapes = runner.abstract(state.opt_state, SPECS)
  restored = jax.tree.map(
      lambda x, like: jax.device_put(x, like.sharding), state.opt_state, shapes)
  back = runner.fetch(runner.place(state.replace(opt_state=restored)))

  assert jax.tree.structure(shapes) == jax.tree.structure(state.opt_state)
  jax.tree.map(np.testing.assert_array_equal, back.opt_state, state.opt_state)


def test_the_loss_depends_on_the_encoder_inputs():
  params = registry.fresh(MODEL, jax.random.key(1))(SPECS)
  nll = jax.jit(objectives.next_token(MODEL, False))
  batch = _batch(0)
  shorter = batch | {"encoder_counts": np.ones_like(batch["encoder_counts"])}

  one, other = (
      nll(params, given, jax.random.key(0)) for given in (batch, shorter))

  same = batch["encoder_counts"] == 1
  assert not same.all()
  assert (np.abs(one - other).max(1) > 0).tolist() == (~same).tolist()
