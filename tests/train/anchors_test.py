"""Tests for anchors against the formulas of their papers in float64."""

from flax import linen as nn
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.train import anchors
from transfer_gen.train import fisher
from transfer_gen.train import optim
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import vocabulary

Group, Rule = plan_lib.Group, plan_lib.Rule
V, D = 5, 3  # Number of tokens, and width.
TABLE = {"embed": ("vocab", "embed"), "scale": ("embed",), "new": ("embed",)}
SOURCE = {"embed": np.arange(12, dtype=np.float32).reshape(4, 3) / 10,
          "scale": np.ones(3, np.float32)}
TARGET = {"embed": np.zeros((V, D), np.float32), "scale": np.zeros(3, np.float32),
          "new": np.zeros(3, np.float32)}
WORDS = {"": vocabulary.Vocabulary(tokens=tuple(b"a b c d".split())),
         "target": vocabulary.Vocabulary(tokens=tuple(b"d x b y a".split()))}
FRESH_TOKENS = (1, 3)  # x and y.


def _rows(groups):
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="new", source=None), Rule(target="(.*)", source=r"\1")),
      axes=(plan_lib.On(axis="vocab", map=axes.MatchTokens(fresh="mean")),),
      groups=groups)
  return resolve.resolve(
      plan, {"": tree.specs(SOURCE, TABLE)}, tree.specs(TARGET, TABLE), WORDS)


def _build(*groups, **fields):
  return optim.build(config.Optim(**{
      "name": "sgd", "b1": 0.0, "lr": 0.1, "schedule": "constant", "warmup_steps": 0,
      "clip_norm": 0.0, "weight_decay": 0.0, **fields}), groups, _rows(groups), 100)


def _params(seed):
  generator = np.random.default_rng(seed)
  return {name: jnp.asarray(generator.normal(size=value.shape), jnp.float32)
          for name, value in TARGET.items()}


def _moved(optimizer, start, now, grads):
  """Makes one update at params `now` with an optimizer that started from `start`."""
  state = optimizer.extend({}, start, 0)
  learning, _ = optimizer.split(now, state)
  mine, _ = optimizer.split(grads, state)
  new, after, norm = optimizer.update(mine, state, learning)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  return new, norm


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 3), st.floats(0, 3), st.integers(0, 99))
def test_l2_sp_decays_copied_entries_to_the_source(alpha, beta, seed):
  optimizer = _build(Group(
      name="all", params=".*", anchor=plan_lib.L2SP(alpha=alpha, beta=beta)))
  start, now, grads = (_params(seed + i) for i in range(3))

  new, norm = _moved(optimizer, start, now, grads)

  # Li et al. (2018): alpha pulls copied entries to their start w0, and beta pulls fresh
  # entries, which have no start worth keeping, to 0.
  squares = 0.0
  for name, value in new.items():
    w, w0, grad = (np.asarray(tree[name], np.float64) for tree in (now, start, grads))
    fresh = np.zeros(w.shape, bool)
    fresh[...] = name == "new"
    if name == "embed":
      fresh[list(FRESH_TOKENS)] = True
    grad = grad + np.where(fresh, beta * w, alpha * (w - w0))
    squares += (grad ** 2).sum()
    np.testing.assert_allclose(value, w - 0.1 * grad, atol=2e-6)
  assert float(norm) == pytest.approx(squares ** 0.5, rel=1e-5)


def test_source_params_are_stored_only_for_anchored_leaves():
  optimizer = _build(
      Group(name="plain", params="scale"),
      Group(name="held", params=".*", anchor=plan_lib.L2SP(alpha=1.0, beta=1.0)),
      name="adamw", b1=0.9)

  state = optimizer.extend({}, _params(0), 0)

  assert set(state["held"][-1]) == {"embed"}
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.ndim)
  # Two moments of "embed" and "new", and the source's values of "embed".
  assert size(state["held"]) == 2 * (V * D + D) + V * D
  assert size(state["plain"]) == 2 * D


def test_anchors_do_not_share_buffers_with_the_params():
  optimizer = _build(Group(name="all", params=".*", anchor=plan_lib.Mixout(p=0.5)))
  params = _params(0)

  held = optimizer.extend({}, params, 0)["all"][-1]["embed"]["source"]

  assert held.unsafe_buffer_pointer() != params["embed"].unsafe_buffer_pointer()
  np.testing.assert_array_equal(held, params["embed"])


def test_anchors_apply_to_the_selected_rows_of_a_table():
  optimizer = _build(
      Group(name="some", params="embed", table_rows=(0, 1, 3, 4),
            anchor=plan_lib.L2SP(alpha=0.5, beta=0.25)),
      Group(name="rest", params=".*", unfreeze_step=None))
  start, now = _params(0), _params(1)
  zeros = jax.tree.map(jnp.zeros_like, now)

  new, _ = _moved(optimizer, start, now, zeros)

  # Of the rows 0, 1, 3 and 4 that learn, rows 1 and 3 are fresh.
  w, w0 = (np.asarray(tree["embed"], np.float64)[[0, 1, 3, 4]] for tree in (now, start))
  pull = np.where([[False], [True], [True], [False]], 0.25 * w, 0.5 * (w - w0))
  np.testing.assert_allclose(new["embed"], w - 0.1 * pull, atol=1e-6)


def test_ewc_scales_its_pull_by_the_fisher_information(tmp_path):
  information = {"scale": np.array([0.0, 1.0, 4.0], np.float32)}
  fisher.save(tmp_path / "fisher.npz", information)
  optimizer = _build(
      Group(name="held", params="scale", anchor=plan_lib.EWC(
          strength=2.0, fisher=str(tmp_path / "fisher.npz"))),
      Group(name="tokens", params="embed", table_rows="fresh"),
      Group(name="rest", params=".*", unfreeze_step=None))
  start, now, grads = (_params(i) for i in range(3))

  new, _ = _moved(optimizer, start, now, grads)

  w, w0, grad = (np.asarray(tree["scale"], np.float64) for tree in (now, start, grads))
  np.testing.assert_allclose(
      new["scale"], w - 0.1 * (grad + 2.0 * information["scale"] * (w - w0)), atol=1e-6)


def _ewc(path, params="scale"):
  return (Group(name="held", params=params, anchor=plan_lib.EWC(
      strength=1.0, fisher=str(path))),
          *([Group(name="tokens", params="embed", table_rows="fresh")]
            if params == "scale" else []),
          Group(name="rest", params=".*", unfreeze_step=None))


@pytest.mark.parametrize("write, params, sentence", [
    (lambda p: None, "scale", "there is no such file"),
    (lambda p: p.write_bytes(b"no archive"), "scale", "no whole .npz"),
    (lambda p: fisher.save(p, {"norm": np.ones(3)}), "scale", "of scale is missing"),
    (lambda p: fisher.save(p, {"scale": np.ones(2)}), "scale",
     r"has shape \(2,\), and group"),
    (lambda p: fisher.save(p, {"embed": np.ones((5, 3))}), "embed",
     "embed is not a plain copy"),
])
def test_fisher_information_that_does_not_fit_is_refused(
    tmp_path, write, params, sentence):
  write(tmp_path / "f.npz")

  with pytest.raises(errors.UserError, match=sentence):
    _build(*_ewc(tmp_path / "f.npz", params))


def test_an_anchor_without_a_source_is_refused():
  with pytest.raises(errors.UserError, match="nothing in the group comes from a"):
    _build(Group(name="new", params="new", anchor=plan_lib.Mixout(p=0.5)),
           Group(name="rest", params=".*"))


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 0.9), st.integers(0, 99))
def test_mixout_is_unbiased_and_picks_one_of_two_values(p, seed):
  fresh = {"embed": np.zeros((1, 1), bool)}
  generator = np.random.default_rng(seed)
  w, w0 = generator.normal(size=(2, 100, 50)).astype(np.float32)
  held = {"embed": {"source": jnp.asarray(w0)}}

  mixed = anchors.mixout(
      {"embed": jnp.asarray(w)}, held, jax.random.key(seed), p, fresh)["embed"]

  # Lee et al. (2020) replace a weight with probability p, then correct the mean.
  wide, wide0 = w.astype(np.float64), w0.astype(np.float64)
  both = [(wide0 - p * wide0) / (1 - p), (wide - p * wide0) / (1 - p)]
  close = [np.abs(mixed - value) < 1e-4 * (1 + np.abs(value)) for value in both]
  assert (close[0] | close[1]).all()
  share = close[0].mean()
  # Within five standard deviations of a binomial share. The slack covers entries in
  # which both values are nearly equal.
  assert abs(share - p) < 5 * (p * (1 - p) / w.size) ** 0.5 + 1e-3
  expected = p * both[0] + (1 - p) * both[1]
  np.testing.assert_allclose(expected, wide, atol=1e-9)


def test_mixout_replaces_only_transferred_entries():
  """The gradient of sum(w) is 0 where the source's value is used, else 1 / (1 - p)."""
  optimizer = _build(Group(name="all", params=".*", anchor=plan_lib.Mixout(p=0.75)))
  start, now = _params(0), _params(1)
  state = step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=now,
      opt_state=optimizer.extend({}, start, 0))
  batch = {"weights": jnp.ones((1, 1))}
  nll_fn = lambda params, *_: sum(
      value.sum() for value in params.values())[None, None]
  step = lambda key: step_lib.train_step(
      state, batch, optimizer=optimizer, key=jax.random.key(key), nll_fn=nll_fn)

  first, again, other = (step(key)[0].params for key in (3, 3, 4))

  for name in TARGET:
    grad = np.asarray(now[name] - first[name]) / 0.1
    plain = np.zeros(grad.shape, bool)
    plain[...] = name == "new"
    if name == "embed":
      plain[list(FRESH_TOKENS)] = True
    np.testing.assert_allclose(grad[plain], 1.0, atol=1e-5)
    drawn = grad[~plain]
    assert (np.isclose(drawn, 0, atol=1e-5) | np.isclose(drawn, 4, rtol=1e-5)).all()
    np.testing.assert_array_equal(first[name], again[name])
  assert not np.array_equal(first["embed"], other["embed"])
  np.testing.assert_array_equal(optimizer.extend({}, start, 0)["all"][-1]["embed"][
      "source"], start["embed"])


class _Bigram(nn.Module):
  """A model whose logits of the next token are a row of a table."""

  @nn.compact
  def __call__(self, tokens, train=False):
    del train
    table = self.param("table", nn.initializers.normal(1.0), (V, V))
    return table[tokens]


def test_fisher_information_matches_a_float64_reference():
  generator = np.random.default_rng(0)
  table = generator.normal(size=(V, V)).astype(np.float32)
  batches = [{"inputs": generator.integers(0, V, (4, 6)).astype(np.int32),
              "targets": generator.integers(0, V, (4, 6)).astype(np.int32),
              "weights": (generator.random((4, 6)) < 0.7).astype(np.float32)}
             for _ in range(3)]
  batches[1]["weights"][2] = 0.0  # A row of padding must not count as a row.

  found = fisher.estimate(_Bigram(), {"table": jnp.asarray(table)}, iter(batches))

  wide = table.astype(np.float64)
  softmax = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
  total, count = np.zeros((V, V)), 0
  for batch in batches:
    for inputs, targets, weights in zip(
        *(batch[name] for name in ("inputs", "targets", "weights"))):
      score = np.zeros((V, V))
      for token, target, weight in zip(inputs, targets, weights):
        score[token] += weight * (np.eye(V)[target] - softmax[token])
      total, count = total + score ** 2, count + (weights.sum() > 0)
  assert count == 11  # Three batches of four rows, less the row of padding.
  np.testing.assert_allclose(found["table"], total / count, rtol=1e-5, atol=1e-7)
  assert found["table"].dtype == jnp.float32


def test_fisher_information_of_no_rows_is_refused():
  with pytest.raises(errors.UserError, match="no row of the batches has weight"):
    fisher.estimate(_Bigram(), {"table": jnp.zeros((V, V))}, [])
