"""Terms that a loss may consist of beside the cross-entropy, as pure functions.

Each returns f32[B, T], one number for each target, in nats where it is a likelihood.

Axes: B batch, T position, S an earlier position, V vocabulary, D values of a position,
K components of a mixture, P states of a pen, L dimensions of a latent.
"""

import math

import jax
import jax.numpy as jnp

_LOG_2PI = math.log(2 * math.pi)
_LEAST = 1e-5  # Below it log(1 - p) is cut off in `unlikelihood`.


def label_smoothed(
    logits: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
  """Computes the cross-entropy from targets that are smoothed over the vocabulary.

  It is -sum_v q(v) log p(v) with q(v) = (1 - e) [v = target] + e / V (Szegedy et al.,
  2016, "Rethinking the Inception Architecture for Computer Vision", section 7).

  Args:
    logits: dtype[B, T, V].
    targets: i32[B, T].
    smoothing: e, in [0, 1).
  """
  wide = _wide(logits)
  log_z = jax.nn.logsumexp(wide, axis=-1)
  chosen = jnp.take_along_axis(wide, targets[..., None], axis=-1)[..., 0]
  return log_z - (1 - smoothing) * chosen - smoothing * wide.mean(-1)


def z_loss(logits: jax.Array) -> jax.Array:
  """Computes log(Z)^2, where Z = sum_v exp(logits[v]).

  It keeps the logits from drifting, of which the softmax sees only differences
  (Chowdhery et al., 2022, "PaLM", section 5, with a weight of 1e-4).

  Args:
    logits: dtype[B, T, V].
  """
  return jnp.square(jax.nn.logsumexp(_wide(logits), axis=-1))


def unlikelihood(
    logits: jax.Array, targets: jax.Array, weights: jax.Array,
    positions: jax.Array | None = None) -> jax.Array:
  """Computes -sum_c log(1 - p(c)) over the tokens c that a text has had already.

  Those are its earlier targets, each once, without the target itself (Welleck et al.,
  2020, "Neural Text Generation with Unlikelihood Training", equations 4 and 5). 1 - p
  is not taken below 1e-5, where its logarithm has no gradient.

  Args:
    logits: dtype[B, T, V].
    targets: i32[B, T].
    weights: f32[B, T]; targets of weight 0, such as prompts and padding, are not among
      the earlier ones.
    positions: i32[B, T], for rows that hold several documents: the number of positions
      before each one in its document. Tokens of other documents are not looked at.
  """
  wide = _wide(logits)
  log_p = wide - jax.nn.logsumexp(wide, axis=-1, keepdims=True)
  steps = jnp.arange(targets.shape[1])
  distance = steps[:, None] - steps[None]  # [T, S]
  begins = jnp.broadcast_to(steps, targets.shape) if positions is None else positions
  earlier = (distance > 0)[None] & (distance[None] <= begins[..., None])  # [B, T, S]
  counts = weights > 0
  same = targets[:, :, None] == targets[:, None, :]  # [B, T, S]
  # A token that occurred several times is one candidate: where it occurred first.
  first = ~(same & earlier & counts[:, None, :]).any(-1)  # [B, S]
  candidates = earlier & ~same & (counts & first)[:, None, :]
  # [B, T, S] and not [B, T, V]: rows are shorter than vocabularies are large.
  index = jnp.broadcast_to(targets[:, None, :], same.shape)
  chances = jnp.exp(jnp.take_along_axis(log_p, index, axis=-1))
  return jnp.where(
      candidates, -jnp.log(jnp.maximum(1 - chances, _LEAST)), 0.0).sum(-1)


def gaussian(mean: jax.Array, log_var: jax.Array, values: jax.Array) -> jax.Array:
  """Computes the negative log-likelihood of values under a diagonal Gaussian.

  It is 1/2 sum_d (log(2 pi) + log s_d^2 + (x_d - m_d)^2 / s_d^2), see Bishop (1994),
  "Mixture Density Networks", with one component.

  Args:
    mean: m, f32[B, T, D].
    log_var: log s^2, f32[B, T, D].
    values: x, f32[B, T, D].
  """
  return 0.5 * (_LOG_2PI + log_var
                + jnp.square(values - mean) * jnp.exp(-log_var)).sum(-1)


def mixture(
    logits: jax.Array, means: jax.Array, log_scales: jax.Array, values: jax.Array
) -> jax.Array:
  """Computes the negative log-likelihood of values under a mixture of Gaussians.

  It is -log sum_k w_k prod_d N(x_d; m_kd, s_kd^2) with w = softmax(logits) (Bishop,
  1994, equations 22 and 23, with a width for each dimension).

  Args:
    logits: f32[B, T, K], which give the weights of the components.
    means: m, f32[B, T, K, D].
    log_scales: log s, f32[B, T, K, D].
    values: x, f32[B, T, D].
  """
  scaled = (values[..., None, :] - means) * jnp.exp(-log_scales)
  each = -(0.5 * jnp.square(scaled) + log_scales + 0.5 * _LOG_2PI).sum(-1)
  return _mixed(logits, each)


def bivariate(
    logits: jax.Array, means: jax.Array, log_scales: jax.Array, slants: jax.Array,
    values: jax.Array) -> jax.Array:
  """Computes the negative log-likelihood of points under a mixture with correlation.

  It is -log sum_k w_k N(x; m_k, s_k, r_k) with the bivariate density of Graves (2013),
  "Generating Sequences With Recurrent Neural Networks", equations 24 to 26, and
  r = tanh(slants).

  Args:
    logits: f32[B, T, K], which give the weights of the components.
    means: m, f32[B, T, K, 2].
    log_scales: log s, f32[B, T, K, 2].
    slants: f32[B, T, K], whose tanh is the correlation.
    values: x, f32[B, T, 2].
  """
  scaled = (values[..., None, :] - means) * jnp.exp(-log_scales)
  x, y = scaled[..., 0], scaled[..., 1]
  # 1 - tanh(a)^2 would lose all its digits for large a: its logarithm is computed.
  size = jnp.abs(slants)
  log_rest = 2 * (math.log(2) - size - jnp.log1p(jnp.exp(-2 * size)))
  # The quadratic form of equation 25 over 1 - r^2, as squares that cannot cancel.
  form = jnp.square(x) + jnp.square(y - jnp.tanh(slants) * x) * jnp.exp(-log_rest)
  return _mixed(logits, -(
      _LOG_2PI + log_scales.sum(-1) + 0.5 * log_rest + 0.5 * form))


def pen(logits: jax.Array, states: jax.Array) -> jax.Array:
  """Computes the negative log-likelihood of the state of a pen.

  With P = 1 it is that of "the pen is lifted here" (Graves, 2013, equation 26); with
  more, of one of P states, such as down, up and end (Ha and Eck, 2018, "A Neural
  Representation of Sketch Drawings", equation 9).

  Args:
    logits: f32[B, T, P].
    states: i32[B, T], in [0, max(P, 2)).
  """
  if logits.shape[-1] == 1:
    # The logit of the other state is 0.
    logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
  log_p = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(log_p, states[..., None], axis=-1)[..., 0]


def squared_error(outputs: jax.Array, values: jax.Array) -> jax.Array:
  """Computes sum_d (x_d - y_d)^2, the squared error of values.

  Up to a factor and a constant it is the negative log-likelihood under a Gaussian of
  fixed width (Kingma and Welling, 2014, "Auto-Encoding Variational Bayes").

  Args:
    outputs: y, f32[B, T, D].
    values: x, f32[B, T, D].
  """
  return jnp.square(outputs - values).sum(-1)


def kl(
    mean: jax.Array, log_var: jax.Array, weights: jax.Array, free_bits: float = 0.0,
    least: float = 0.0,
) -> jax.Array:
  """Computes KL(N(m, s^2) || N(0, I)), of which each target of a row gets its share.

  It is sum_d max(f, 1/2 (m_d^2 + s_d^2 - 1 - log s_d^2)), the closed form of Kingma and
  Welling (2014, appendix B) with the free bits f of Kingma et al. (2016), "Improved
  Variational Inference with Inverse Autoregressive Flow", equation 15. They take the
  maximum of the mean over a batch; here it is that of each row, so that the loss does
  not depend on how a batch is divided.

  Args:
    mean: m, f32[B, L].
    log_var: log s^2, f32[B, L].
    weights: f32[B, T], 0 for targets that do not count.
    free_bits: f, in nats.
    least: Mean over dimensions that the KL is not taken below, in nats (Ha and Eck,
      2018, "A Neural Representation of Sketch Drawings", equation 11; there the mean is
      also over a batch).

  Returns:
    f32[B, T]. Times the weights, the sum over a row is the KL of that row.
  """
  each = 0.5 * (jnp.square(mean) + jnp.expm1(log_var) - log_var)
  rows = jnp.maximum(jnp.maximum(each, free_bits).sum(-1), least * mean.shape[-1])
  # Spread over the targets of its row, so that it is added to their likelihoods in one
  # unit: the sum of both is the bound on the likelihood of the row, per token.
  shares = rows / jnp.maximum(weights.sum(-1), 1.0)
  return jnp.broadcast_to(shares[:, None], weights.shape)


def _wide(logits: jax.Array) -> jax.Array:
  """Returns logits in float32, or as they are where they have more digits."""
  # Sums of V exponentials in bfloat16 would lose most of their terms.
  return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _mixed(logits: jax.Array, each: jax.Array) -> jax.Array:
  """Returns -log sum_k w_k exp(each_k) for f32[B, T, K]."""
  return -jax.nn.logsumexp(jax.nn.log_softmax(logits) + each, axis=-1)
