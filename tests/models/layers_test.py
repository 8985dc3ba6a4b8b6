"""Tests for layers and initializers against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import layers


@pytest.mark.parametrize("name, shape, in_axis, out_axis, variance", [
    # A kernel [D, H, K] has fan-in D and fan-out H * K. A kernel of gates [D, 4, U] has
    # fan-out U, because each gate is a matrix of its own.
    ("xavier_uniform", (96, 4, 16), 0, (1, 2), 2 / (96 + 64)),
    ("xavier_normal", (96, 4, 16), 0, (1, 2), 2 / (96 + 64)),
    ("he_uniform", (96, 4, 16), 0, (1, 2), 2 / 96),
    ("he_normal", (4, 16, 96), (0, 1), 2, 2 / 64),
    ("lecun_uniform", (4, 16, 96), (0, 1), 2, 1 / 64),
    ("lecun_normal", (96, 64), 0, 1, 1 / 96),
    ("xavier_uniform", (48, 4, 32), 0, 2, 2 / (48 + 32)),
    ("he_normal", (48, 4, 32), 0, 2, 2 / 48),
    ("truncated_normal", (96, 64), 0, 1, 0.02 ** 2 * 0.7737),
])
def test_initializers_have_zero_mean_and_the_specified_variance(
    name, shape, in_axis, out_axis, variance):
  x = np.float64(layers.initializer(name, in_axis, out_axis)(jax.random.key(0), shape))

  # 6144 draws: the standard error of the variance is below 2%.
  assert x.var() / variance == pytest.approx(1, abs=0.06, rel=0)
  assert x.mean() / np.sqrt(variance) == pytest.approx(0, abs=0.06, rel=0)


def test_xavier_uniform_stays_within_its_limit():
  x = layers.initializer("xavier_uniform", 0, 1)(jax.random.key(0), (40, 60))

  limit = np.sqrt(6 / 100)
  assert np.abs(x).max() <= limit
  assert np.abs(x).max() > 0.99 * limit


def test_an_unknown_initializer_is_refused_with_the_choices():
  with pytest.raises(errors.UserError, match=(
      "model.init is 'xavier', must be one of he_normal, .*xavier_u")):
    layers.initializer("xavier", 0, 1)


# Dense sums a single row in 4 parts if they divide its width, as they divide 8.
@pytest.mark.parametrize("width", [8, 7])
def test_dense_with_bias_matches_numpy_for_a_single_row(width):
  module = layers.Dense(
      (5,), axes=("embed", "mlp"), reads=("embed",), kernel_init="lecun_normal")
  x = jax.random.normal(jax.random.key(1), (1, 1, width))
  kernel = jax.random.normal(jax.random.key(2), (width, 5))
  bias = jax.random.normal(jax.random.key(3), (5,))

  y = module.apply({"params": {"kernel": kernel, "bias": bias}}, x)

  expected = np.float64(x) @ np.float64(kernel) + np.float64(bias)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_dense_contracts_its_leading_kernel_axes():
  module = layers.Dense(
      (5, 2), axes=("heads", "kv", "embed", "mlp"), reads=("heads", "kv"),
      kernel_init="lecun_normal")
  x = jax.random.normal(jax.random.key(1), (2, 7, 3, 4))
  variables = module.init(jax.random.key(0), x)
  params = tree.unbox(variables["params"])
  params["bias"] = jax.random.normal(jax.random.key(2), (5, 2))

  with jax.numpy_dtype_promotion("strict"):
    y = module.apply({"params": params}, x)

  want = np.einsum("bthk,hkem->btem", x, params["kernel"]) + np.asarray(params["bias"])
  np.testing.assert_allclose(y, want, atol=1e-5)
  specs = tree.specs(variables["params"])
  assert specs["kernel"].axes == ("heads", "kv", "embed", "mlp")
  assert specs["kernel"].reads == (True, True, False, False)
  assert specs["bias"].axes == ("embed", "mlp")
  assert specs["bias"].reads == (False, False)


def test_a_bias_inherits_reads_for_the_output_axes():
  module = layers.Dense(
      (3, 4), axes=("embed", "heads", "kv"), reads=("embed", "kv"),
      kernel_init="lecun_normal")

  specs = tree.specs(module.init(jax.random.key(0), jnp.ones((2, 5)))["params"])

  assert specs["kernel"].reads == (True, False, True)
  assert specs["bias"].reads == (False, True)


def test_a_recurrent_kernel_reads_only_its_first_hidden_axis():
  init = layers.boxed(
      layers.initializer("he_normal", 0, 2), "hidden", "gates", "hidden",
      reads=("hidden",))

  specs = tree.specs({"kernel": init(jax.random.key(0), (6, 4, 6))})

  assert specs["kernel"].reads == (True, False, False)


@pytest.mark.parametrize("kind, bias", [
    ("layer", True), ("layer", False), ("rms", True)])
def test_norm_matches_its_formula_in_float64(kind, bias):
  module = layers.Norm(kind, epsilon=1e-3, bias=bias)
  x = 3 + jax.random.normal(jax.random.key(0), (2, 3, 8))
  params = jax.tree.map(
      lambda p: p + jax.random.normal(jax.random.key(1), p.shape),
      tree.unbox(module.init(jax.random.key(0), x)["params"]))

  with jax.numpy_dtype_promotion("strict"):
    y = module.apply({"params": params}, x)

  normed = np.float64(x)
  normed -= normed.mean(-1, keepdims=True) if kind == "layer" else 0
  normed /= np.sqrt(np.square(normed).mean(-1, keepdims=True) + 1e-3)
  params = {name: np.float64(value) for name, value in params.items()}
  want = normed * params["scale"] + params.get("bias", 0)
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
  assert ("bias" in params) == (kind == "layer" and bias)


def test_norm_gradient_matches_float64_finite_differences():
  module = layers.Norm("layer")
  x = jax.random.normal(jax.random.key(0), (2, 3, 8)) + 1
  # Random weights for the sum: the plain sum of a normed vector does not depend on x.
  tilt = jax.random.normal(jax.random.key(1), (2, 3, 8))
  scale = jax.random.normal(jax.random.key(2), (8,))
  params = {"scale": scale, "bias": jnp.zeros((8,))}

  def loss(params, x):
    return (module.apply({"params": params}, x) * tilt).sum()
  grads, dx = jax.grad(loss, (0, 1))(params, x)

  def reference(x, scale):
    normed = x - x.mean(-1, keepdims=True)
    normed = normed / np.sqrt(np.square(normed).mean(-1, keepdims=True) + 1e-5)
    return (normed * scale * np.float64(tilt)).sum()
  x, scale = np.float64(x), np.float64(scale)
  for index in ((0, 0, 0), (1, 2, 7), (1, 0, 3)):
    step = np.zeros_like(x)
    step[index] = 1e-5
    want = (reference(x + step, scale) - reference(x - step, scale)) / 2e-5
    assert float(dx[index]) == pytest.approx(want, abs=1e-4, rel=0)
  step = np.eye(8)[5] * 1e-5
  want = (reference(x, scale + step) - reference(x, scale - step)) / 2e-5
  assert float(grads["scale"][5]) == pytest.approx(want, abs=1e-4, rel=0)


def test_embed_looks_up_rows_and_computes_logits():
  module = layers.Embed(5, 3)
  variables = module.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  table = np.asarray(tree.unbox(variables["params"])["embedding"])

  rows = module.apply(variables, jnp.array([[4, 0, 9]]))
  scores = module.apply(variables, rows, method="attend")

  np.testing.assert_array_equal(rows[0], table[[4, 0, 4]])
  np.testing.assert_allclose(scores[0], table[[4, 0, 4]] @ table.T, atol=1e-6)
