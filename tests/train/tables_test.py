"""Tests for groups in which only some rows of a table learn."""

import functools

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
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

V, D = 40, 16  # Number of tokens, and width.
MODELS = {
    "untied": config.Decoder(vocab_size=V, num_layers=1, width=D, num_heads=2,
                             mlp_width=32, max_length=8, tied=False),
    "tied": config.Decoder(vocab_size=V, num_layers=1, width=D, num_heads=2,
                           mlp_width=32, max_length=8),
    "bias": config.Recurrent(vocab_size=V, num_layers=1, embed_width=D, hidden_width=D),
}
TABLES = {"untied": {"embed/embedding": 0, "head/kernel": 1},
          "tied": {"embed/embedding": 0},
          "bias": {"embed/embedding": 0, "head/kernel": 1, "head/bias": 0}}
ROWS = (3, 17, 38, 39)
SGD = dict(name="sgd", weight_decay=0.5)


def _batch(seed):
  generator = np.random.default_rng(seed)
  tokens = generator.integers(0, V, (16, 9)).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": (generator.random((16, 8)) < 0.8).astype(np.float32)}


@functools.cache
def _model(name):
  module = registry.build(MODELS[name])
  specs = registry.specs(module)
  return module, specs, registry.fresh(module, jax.random.key(1))(specs)


def _setup(kind, rows=ROWS, **fields):
  _, specs, params = _model(kind)
  groups = (plan_lib.Group(name="new", params="embed/.*|head/.*", table_rows=rows),
            plan_lib.Group(name="body", params=".*", unfreeze_step=None))
  resolved = resolve.resolve(plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),), groups=groups), {}, specs)
  optimizer = optim.build(config.Optim(**{
      "warmup_steps": 0, "lr": 0.01, "schedule": "constant", **fields}),
      groups, resolved, 100)
  return optimizer, step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=optimizer.extend({}, params, 0))


def _run(kind, devices, accumulate=1):
  optimizer, state = _setup(kind, **SGD)
  module, specs, _ = _model(kind)
  runner = parallel.make_runner(
      devices, specs, 16, accumulate, optimizer=optimizer,
      nll_fn=objectives.next_token(module, False))
  state = runner.place(jax.tree.map(jnp.copy, state))
  for step in range(3):
    state, _ = runner.step(state, runner.put(_batch(step)), jax.random.key(0))
  return jax.device_get(runner.fetch(state).params)


_alone = functools.cache(lambda kind: _run(kind, config.Parallel()))


def _apart(table, dim, rows=ROWS):
  """Splits a table into the rows that learn and the others."""
  table = np.moveaxis(np.asarray(table), dim, 0)
  return table[list(rows)], np.delete(table, list(rows), 0)


@pytest.mark.parametrize("kind", MODELS)
def test_only_the_selected_rows_are_updated(kind):
  after = _alone(kind)

  for leaf, value in _model(kind)[2].items():
    if leaf not in TABLES[kind]:
      np.testing.assert_array_equal(after[leaf], value, err_msg=leaf)
      continue
    dim = TABLES[kind][leaf]
    assert after[leaf].shape == value.shape  # Outside of a step, tables are complete.
    (mine, others), (moved, kept) = (
        _apart(table, dim) for table in (value, after[leaf]))
    np.testing.assert_array_equal(kept, others, err_msg=leaf)
    assert (moved != mine).all(), leaf


@pytest.mark.parametrize("kind", MODELS)
def test_the_optimizer_has_state_only_for_the_selected_rows(kind):
  optimizer, state = _setup(kind)

  slots = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)

  entries = sum(1 if leaf == "head/bias" else D for leaf in TABLES[kind])
  assert slots == 2 * len(ROWS) * entries
  assert optimizer.learning(state.opt_state) == set(TABLES[kind])


@pytest.mark.parametrize("kind", [
    "tied", *(pytest.param(kind, marks=pytest.mark.long) for kind in MODELS
              if kind != "tied")])
def test_gradients_of_rows_equal_the_rows_of_the_full_gradient(kind):
  """With SGD at rate 1, the change of the rows is their gradient."""
  optimizer, state = _setup(
      kind, name="sgd", lr=1.0, b1=0.0, clip_norm=0.0, weight_decay=0.0)
  nll_fn, batch = objectives.next_token(_model(kind)[0], False), _batch(0)
  mean = lambda params: ((nll_fn(params, batch, None) * batch["weights"]).sum()
                         / batch["weights"].sum())
  whole = jax.jit(jax.grad(mean))(state.params)

  after, metrics = jax.jit(functools.partial(
      step_lib.train_step, nll_fn=nll_fn, optimizer=optimizer,
      key=jax.random.key(0)))(state, batch)

  squares = 0.0
  for leaf, dim in TABLES[kind].items():
    grad, _ = _apart(whole[leaf], dim)
    (new, _), (old, _) = (
        _apart(params[leaf], dim) for params in (after.params, state.params))
    np.testing.assert_allclose(new, old - grad, atol=1e-6)
    assert np.abs(new - old).max() > 1e-5  # The gradients exceed the tolerance.
    squares += (grad.astype(np.float64) ** 2).sum()
  assert float(metrics["grad_norm"][0]) == pytest.approx(squares ** 0.5, rel=1e-5)


@pytest.mark.parametrize("kind, devices, accumulate", [
    ("untied", config.Parallel(fsdp=2, tensor=4), 1),
    pytest.param("bias", config.Parallel(mode="pmap"), 1, marks=pytest.mark.long),
    ("tied", config.Parallel(), 2)], ids=["fsdp_tensor", "pmap", "accumulate"])
def test_sharding_and_accumulation_do_not_change_the_params(kind, devices, accumulate):
  shared = _run(kind, devices, accumulate)

  for leaf, value in _alone(kind).items():
    np.testing.assert_allclose(shared[leaf], value, atol=1e-6, err_msg=leaf)
  for leaf, dim in TABLES[kind].items():
    kept = [_apart(table, dim)[1] for table in (shared[leaf], _model(kind)[2][leaf])]
    np.testing.assert_array_equal(*kept)


def test_weight_decay_is_applied_only_to_the_selected_rows():
  """With zero gradients, a step of AdamW consists of weight decay alone."""
  optimizer, state = _setup("untied", weight_decay=0.5, lr=0.1)
  learning, frozen = optimizer.split(state.params, state.opt_state)
  zeros = jax.tree.map(jnp.zeros_like, learning)

  new, _, _ = optimizer.update(zeros, state.opt_state, learning)
  joined = optimizer.join(new, frozen)

  for leaf, dim in TABLES["untied"].items():
    (old, others), (rows, kept) = (
        _apart(params[leaf], dim) for params in (state.params, joined))
    np.testing.assert_allclose(rows, old * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(kept, others)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from((1, 7, V)).flatmap(  # Few sizes: each is compiled separately.
    lambda size: st.lists(st.integers(0, V - 1), min_size=size, max_size=size,
                          unique=True)))
def test_join_inverts_split_for_any_rows(rows):
  optimizer, state = _setup("bias", rows=tuple(rows))

  learning, frozen = optimizer.split(state.params, state.opt_state)
  marked = optimizer.join(
      {name: value + 1 for name, value in learning.items()}, frozen)

  assert set(learning) == set(TABLES["bias"])
  for leaf, dim in TABLES["bias"].items():
    expected = np.array(state.params[leaf])
    chosen = (slice(None),) * dim + (sorted(rows),)
    expected[chosen] = expected[chosen] + np.float32(1)
    np.testing.assert_array_equal(marked[leaf], expected)
  same = optimizer.join(learning, frozen)
  assert list(same) == sorted(state.params)
  for leaf, value in state.params.items():
    np.testing.assert_array_equal(same[leaf], value)
