"""Tests for computing in bfloat16 and float16 with params and sums in float32."""

from collections.abc import Iterator
import functools
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen.models import registry
from transfer_gen.train import loss_scale
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

PLAN = plan_lib.TransferPlan(
    rules=(plan_lib.Rule(target=".*", source=None),),
    groups=(plan_lib.Group(name="all", params=".*"),))
DECODER = config.Decoder(
    vocab_size=40, num_layers=1, width=16, num_heads=4, num_kv_heads=2, mlp_width=32,
    max_length=8, token_types=2, dropout=0.1, dtype="bfloat16")
LSTM = config.Recurrent(
    vocab_size=40, num_layers=1, embed_width=16, hidden_width=12, cell="lstm",
    dtype="bfloat16")
MODELS = {
    "decoder": DECODER,
    "rotary": config.Decoder(
        vocab_size=40, num_layers=1, width=16, num_heads=2, mlp_width=32, norm="rms",
        position="rotary", activation="swiglu", tied=False, dtype="bfloat16"),
    "lstm": LSTM,
    "gru_before": config.Recurrent(
        vocab_size=40, num_layers=1, embed_width=16, hidden_width=12, cell="gru",
        reset_after=False, dtype="bfloat16"),
    "attends": config.Recurrent(
        vocab_size=40, num_layers=1, embed_width=16, hidden_width=12, cell="lstm",
        encoder=True, encoder_attention="additive", dtype="bfloat16")}
# What loses digits in a narrow dtype: exponentials and sums that a loss, a softmax or a
# norm reads.
WIDE = {"exp", "log", "rsqrt", "cumsum", "scatter-add", "square"}


def _batch(rows=4, pair=False):
  tokens = np.random.default_rng(0).integers(1, 40, (rows, 9)).astype(np.int32)
  more = {"encoder_inputs": tokens[:, :6],
          "encoder_counts": np.full(rows, 6, np.int32)} if pair else {}
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": np.ones((rows, 8), np.float32), **more}


def _setup(model, accumulate=1, scaled=False):
  module = registry.build(model)
  specs = registry.specs(module)
  optimizer = optim.build(
      config.Optim(warmup_steps=0, lr=0.01), PLAN.groups,
      resolve.resolve(PLAN, {}, specs), 100)
  params = registry.fresh(module, jax.random.key(1))(specs)
  state = step_lib.TrainState(
      step=jnp.int32(0), params=params, opt_state=optimizer.extend({}, params, 0),
      others=step_lib.others("float16") if scaled else {})
  return functools.partial(
      step_lib.train_step, nll_fn=objectives.next_token(module, True),
      optimizer=optimizer, accumulate=accumulate, key=jax.random.key(0)), state


def _equations(jaxpr: Any) -> Iterator[Any]:
  for equation in jaxpr.eqns:
    yield equation
    for param in jax.tree.leaves(
        equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
      inner = getattr(param, "jaxpr", param)
      if hasattr(inner, "eqns"):
        yield from _equations(inner)


def _dtypes(variables):
  return {str(x.aval.dtype) for x in variables if hasattr(x.aval, "dtype")}


@pytest.mark.parametrize("name", MODELS)
def test_products_are_bfloat16_and_what_sums_over_tokens_is_float32(name):
  step, state = _setup(MODELS[name], accumulate=2)

  program = jax.make_jaxpr(step)(state, _batch(pair=name == "attends"))

  equations = [*_equations(program.jaxpr)]
  products = [e for e in equations if e.primitive.name == "dot_general"]
  assert len(products) > 8
  assert {*map(str, map(_dtypes, (e.invars for e in products)))} == {"{'bfloat16'}"}
  assert all(_dtypes(e.outvars) == {"float32"}
             for e in equations if e.primitive.name in WIDE)
  # Params, moments and the sums over micro-batches and steps of time have a param's
  # size; none is in a narrower dtype.
  sizes = {x.shape for x in state.params.values() if x.ndim > 1}
  carried = [x.aval for e in equations if e.primitive.name == "scan"
             for x in e.outvars[:e.params["num_carry"]]]
  assert any(x.shape in sizes for x in carried)
  assert {str(x.dtype) for x in carried if x.shape in sizes} == {"float32"}
  assert _dtypes(program.jaxpr.outvars) <= {"float32", "int32"}


# Beside those of a step of an attention over time, which sum over its rows.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "attends"])
def test_no_sum_leaves_a_program_as_bfloat16(name):
  step, state = _setup(MODELS[name])

  program = jax.make_jaxpr(step)(state, _batch())

  sums = [e for e in _equations(program.jaxpr) if e.primitive.name == "reduce_sum"]
  assert sums and {*map(str, map(_dtypes, (e.outvars for e in sums)))} == {
      "{'float32'}"}


def _losses(model, steps=25, scaled=False):
  step, state = _setup(model, scaled=scaled)
  step, losses = jax.jit(step), []
  for _ in range(steps):
    state, metrics = step(state, _batch(16))
    losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
  return np.asarray(losses)


@pytest.mark.parametrize("model", [
    DECODER, pytest.param(LSTM, marks=pytest.mark.long)], ids=["decoder", "lstm"])
def test_losses_stay_near_those_of_float32(model):
  want = _losses(config_with(model, dtype="float32"))

  for dtype in ("bfloat16", "float16"):
    found = _losses(config_with(model, dtype=dtype), scaled=dtype == "float16")
    assert 0 < abs(found - want).max() < 0.03
  assert want[-1] < want[0] - 0.5


def config_with(model, **fields):
  return type(model)(**{**vars(model), **fields})


def test_a_step_whose_gradients_overflow_changes_only_the_loss_scale():
  step, state = _setup(config_with(DECODER, dtype="float16"), scaled=True)
  step = jax.jit(step)
  huge = state.replace(others={loss_scale.NAME: {
      "scale": jnp.float32(2.0**40), "finite": jnp.int32(5)}})

  after, metrics = step(huge, _batch())
  moved, fine = step(state, _batch())

  jax.tree.map(np.testing.assert_array_equal, (after.params, after.opt_state),
               (state.params, state.opt_state))
  assert after.step == 1
  assert jax.tree.map(float, after.others[loss_scale.NAME]) == {
      "scale": 2.0**39, "finite": 0}
  assert [float(x) for x in metrics["skipped"]] == [1, 1]
  assert [float(x) for x in metrics["grad_norm"]] == [0, 0]
  assert float(metrics["loss"][0]) == pytest.approx(float(fine["loss"][0]))
  assert float(fine["skipped"][0]) == 0 and float(fine["grad_norm"][1]) == 1
  assert not np.array_equal(moved.params["embed/embedding"],
                            state.params["embed/embedding"])


def test_the_loss_scale_doubles_after_enough_finite_steps_and_halves_at_once():
  state = {"scale": jnp.float32(8), "finite": jnp.int32(loss_scale.GROWTH - 2)}
  seen = []
  for finite in (True, True, True, False, False, True):
    state = loss_scale.after(state, jnp.asarray(finite))
    seen.append((float(state["scale"]), int(state["finite"])))

  assert seen == [(8, loss_scale.GROWTH - 1), (16, 0), (16, 1), (8, 0), (4, 0), (4, 1)]


def test_a_loss_scale_keeps_gradients_that_float16_would_lose():
  """The gradients of logits lie below half of the smallest float16, 6e-8."""
  def norm(dtype, scaled):
    step, state = _setup(config_with(LSTM, dtype=dtype), scaled=scaled)
    nll_fn = step.keywords["nll_fn"]
    small = lambda *args: 1e-7 * nll_fn(*args)
    metrics = jax.jit(functools.partial(step, nll_fn=small))(state, _batch())[1]
    return float(metrics["grad_norm"][0])

  want = norm("float32", False)

  assert want > 0 and norm("float16", True) == pytest.approx(want, rel=0.05)
  assert norm("float16", False) == 0


@pytest.mark.parametrize("devices", [
    config.Parallel(data=2, fsdp=2, tensor=2),
    pytest.param(config.Parallel(mode="pmap"), marks=pytest.mark.long)])
def test_a_loss_scale_is_the_same_on_all_devices(devices):
  model = config_with(DECODER, dtype="float16", dropout=0.0)
  step, state = _setup(model, scaled=True)
  one, _ = jax.jit(step)(state, _batch(8))
  runner = parallel.make_runner(
      devices, registry.specs(registry.build(model)), 8, 1,
      nll_fn=step.keywords["nll_fn"], optimizer=step.keywords["optimizer"])

  after, metrics = runner.step(
      runner.place(state), runner.put(_batch(8)), jax.random.key(0))

  after = runner.fetch(after)
  assert jax.tree.map(float, after.others) == jax.tree.map(float, one.others)
  np.testing.assert_allclose(
      after.params["embed/embedding"], one.params["embed/embedding"], atol=2e-3)
  assert float(metrics["skipped"][0]) == 0
