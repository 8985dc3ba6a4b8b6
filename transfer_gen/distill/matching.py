"""What a teacher adds to the loss of a model, as pure functions.

Each compares something of the model with the same of its teacher, is 0 where both are
equal, and returns f32[B, T], one number for each position, unless it says otherwise.

Axes: B batch, T position, P an earlier position, V tokens of the model, W tokens of the
teacher, D width of the model's states, E of the teacher's, H heads, K head width, R
relation heads, S samples, M Gaussians of a mixture.
"""

from collections.abc import Mapping
import math

import jax
import jax.numpy as jnp

from transfer_gen import errors
from transfer_gen.train import terms

_FLOOR = -1e9  # Of scores; finite, so that no row becomes NaN.
# What describes a mixture, in the order in which `terms.bivariate` takes it.
MIXTURE = (
    "mixture_logits", "mixture_means", "mixture_log_scales", "mixture_slants")
Mixture = Mapping[str, jax.Array]


def divergence(chances: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
  """Computes the KL of softened predictions from those of the teacher.

  It is t^2 sum_v p(v) (log p(v) - log q(v)) with q = softmax(logits / t) (Hinton et
  al., 2015, "Distilling the Knowledge in a Neural Network", section 2, which minimizes
  the cross-entropy: it differs by the entropy of p, which is constant). 0 log 0 is 0.

  Args:
    chances: p, f32[B, T, V], the teacher's probabilities at the same temperature, in
      [0, 1], which sum to 1.
    logits: f32[B, T, V].
    temperature: t, above 0.

  Returns:
    f32[B, T], at least 0, in nats at a temperature of 1.

  Raises:
    errors.UserError: If the temperature is not above 0, or V differs.

  Example:
    >>> import jax.numpy as jnp
    >>> from transfer_gen.distill import matching
    >>> chances = jnp.array([[[0.5, 0.5]]])
    >>> found = matching.divergence(chances, jnp.log(jnp.array([[[0.25, 0.75]]])), 1.0)
    >>> print(f"{found[0, 0]:.4f}")  # 0.5 log 2 + 0.5 log (2 / 3)
    0.1438
  """
  _check_positive(temperature)
  _check_widths("divergence", chances, logits)
  # The factor t^2 keeps gradients at the same scale for every temperature, because
  # those of softened targets shrink with 1 / t^2.
  log_q = jax.nn.log_softmax(logits / temperature)
  # The logarithm of 1 in the place of 0 is finite, and is multiplied by a probability
  # of 0. Zeros do occur: `mined` gives none to a token that is nearest to no token of
  # the teacher.
  log_p = jnp.log(jnp.where(chances > 0, chances, 1.0))
  return temperature ** 2 * (chances * (log_p - log_q)).sum(-1)


def sorted_distance(
    chances: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
  """Computes the L1 distance between sorted probabilities over two vocabularies.

  It is sum_i |p_(i) - q_(i)| with q = softmax(logits / t), both in descending order,
  and the shorter filled with zeros (Boizard et al., 2024, "Towards Cross-Tokenizer
  Distillation: the Universal Logit Distillation Loss for LLMs", section 3.2).

  Args:
    chances: p, f32[B, T, W], sorted, the largest first; in [0, 1], with the sum 1.
    logits: f32[B, T, V].
    temperature: t, above 0, as the teacher's were softened.

  Returns:
    f32[B, T], in [0, 2].

  Raises:
    errors.UserError: If the temperature is not above 0.
  """
  _check_positive(temperature)
  # Only the model's side is sorted here, because it must be differentiated. The
  # teacher's arrives sorted, see `teacher._descending`.
  own = -jnp.sort(-jax.nn.softmax(logits / temperature), axis=-1)
  size = max(own.shape[-1], chances.shape[-1])
  own, chances = (jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, size - x.shape[-1]),))
                  for x in (own, chances))
  return jnp.abs(own - chances).sum(-1)


def projected(states: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes states W, as wide as the teacher's.

  W is learned with the model: the regressor of FitNets (Romero et al., 2015, "FitNets:
  Hints for Thin Deep Nets", equation 3) without a bias, and W_h of TinyBERT (Jiao et
  al., 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", equation
  8).

  Args:
    states: f32[B, T, D].
    kernel: W, f32[D, E].

  Returns:
    f32[B, T, E].

  Raises:
    errors.UserError: If D differs.
  """
  _check_widths("projected", states, kernel.T)
  return (states.reshape(-1, states.shape[-1]) @ kernel).reshape(
      *states.shape[:-1], kernel.shape[-1])


def squared_distance(own: jax.Array, theirs: jax.Array) -> jax.Array:
  """Computes the mean squared difference of hidden states.

  It is 1/E sum_e (h_e - g_e)^2 (Jiao et al., 2020, "TinyBERT: Distilling BERT for
  Natural Language Understanding", equation 8; FitNets have half of the sum).

  Args:
    own: h, f32[B, T, E].
    theirs: g, f32[B, T, E].

  Returns:
    f32[B, T], at least 0.

  Raises:
    errors.UserError: If E differs.
  """
  _check_widths("squared_distance", theirs, own)
  return jnp.square(own - theirs).mean(-1)


def angular_distance(own: jax.Array, theirs: jax.Array) -> jax.Array:
  """Computes 1 - cos(h, g) of hidden states, whatever their lengths.

  cos is h g / sqrt(|h|^2 |g|^2) (Sanh et al., 2019, "DistilBERT, a distilled version of
  BERT", section 2). Where one of both is 0 it counts as 0.

  Args:
    own: h, f32[B, T, E].
    theirs: g, f32[B, T, E].

  Returns:
    f32[B, T], in [0, 2].

  Raises:
    errors.UserError: If E differs.
  """
  _check_widths("angular_distance", theirs, own)
  # One root of both squared norms instead of two roots and a quotient. The small
  # constant keeps the gradient finite where an entry is all zeros, as the teacher's is
  # at positions that it has not read in common.
  squares = jnp.square(own).sum(-1) * jnp.square(theirs).sum(-1)
  return 1 - (own * theirs).sum(-1) * jax.lax.rsqrt(squares + 1e-12)


def relations(
    x: jax.Array, heads: int, positions: jax.Array | None = None) -> jax.Array:
  """Computes log-probabilities of what a position attends to up to itself.

  They are log softmax(a a' / sqrt(H K / R)), of products of queries with queries, keys
  with keys or values with values, whose heads are joined and divided anew into R
  (Wang et al., 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for
  Compressing Pretrained Transformers", section 3.1).

  Args:
    x: a, dtype[B, T, H, K].
    heads: R, a divisor of H K.
    positions: i32[B, T], for rows that hold several documents: the number of positions
      before each one in its document, beyond which it attends to nothing.

  Returns:
    f32[B, R, T, P]; about -1e9 for positions that are not attended to.

  Raises:
    errors.UserError: If R does not divide H K.
  """
  batch, length, *sizes = x.shape
  if heads < 1 or math.prod(sizes) % heads:
    raise errors.UserError(
        f"relations: {heads} relation heads do not divide {sizes[0]} heads of"
        f" {sizes[1]} features. Choose a divisor of {math.prod(sizes)}.")
  # float32, because few digits of the difference of two log-softmaxes are left in
  # bfloat16.
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(
      batch, length, heads, -1)
  scores = jnp.einsum("btrk,bsrk->brts", x, x) * x.shape[-1] ** -0.5
  steps = jnp.arange(length)
  distances = steps[:, None] - steps[None]  # [T, P]
  earlier = (distances >= 0)[None, None]
  if positions is not None:
    earlier &= (distances[None] <= positions[..., None])[:, None]
  return jax.nn.log_softmax(jnp.where(earlier, scores, _FLOOR))


def relation_divergence(
    own: jax.Array, theirs: jax.Array, positions: jax.Array | None = None) -> jax.Array:
  """Computes the KL of the relations of positions from those of the teacher.

  It is 1/R sum_r sum_p exp(t_r(p)) (t_r(p) - s_r(p)) with t and s the `relations` of
  teacher and model in R heads, the largest number that divides the heads of both (Wang
  et al., 2021, "MiniLMv2", section 3.1). The widths of their heads may differ.

  Args:
    own: Queries, keys or values of the model, dtype[B, T, H, K].
    theirs: The same of the teacher, with its own H and K.
    positions: As for `relations`.

  Returns:
    f32[B, T], at least 0, in nats.
  """
  heads = math.gcd(own.shape[2], theirs.shape[2])
  log_q, log_p = (relations(x, heads, positions) for x in (own, theirs))
  # Masked positions have a probability of exactly 0 and finite logarithms, so they add
  # 0 and no NaN.
  return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean(1)


def attention_divergence(
    own: Mapping[str, jax.Array], theirs: Mapping[str, jax.Array],
    positions: jax.Array | None = None) -> jax.Array:
  """Computes the mean of `relation_divergence` over what is related.

  Wang et al. (2021, "MiniLMv2", section 3.1) give the relations of queries, of keys
  and of values equal weights.

  Args:
    own: `query`, `key` and `value` of the model, dtype[B, T, H, K] each.
    theirs: The same of the teacher, with its own H and K.
    positions: As for `relations`.

  Returns:
    f32[B, T], at least 0, in nats.

  Raises:
    errors.UserError: If the names differ.
  """
  if not own or own.keys() != theirs.keys():
    raise errors.UserError(
        f"attention_divergence: the model has {sorted(own)} and the teacher"
        f" {sorted(theirs)}. Give both the same names.")
  return sum((relation_divergence(own[name], theirs[name], positions)
              for name in own), jnp.zeros(())) / len(own)


def mixture_samples(key: jax.Array, mixture: Mixture, count: int) -> jax.Array:
  """Draws points from a mixture of Gaussians over two correlated values.

  A Gaussian k is drawn with the probability softmax(mixture_logits)_k; with e and f
  from N(0, 1) the point is m_k + s_k (e, r e + sqrt(1 - r^2) f), which has the density
  of Graves (2013), "Generating Sequences With Recurrent Neural Networks", equation 24.

  Args:
    key: The random key.
    mixture: `mixture_logits` f32[B, T, M]; `mixture_means` m and `mixture_log_scales`
      log s, f32[B, T, M, 2]; and `mixture_slants` f32[B, T, M], whose tanh is r.
    count: S, at least 1.

  Returns:
    f32[S, B, T, 2].
  """
  logits, means, log_scales, slants = (mixture[name] for name in MIXTURE)
  chosen_key, noise_key = jax.random.split(key)
  shape = (count, *logits.shape[:-1])
  chosen = jax.random.categorical(chosen_key, logits, shape=shape)[..., None]
  noise = jax.random.normal(noise_key, (*shape, 2), logits.dtype)

  def of_chosen(x):  # [B, T, M, ...] to [S, B, T, ...]
    x = jnp.broadcast_to(x[None], (count, *x.shape))
    at = chosen.reshape(*chosen.shape, *(1,) * (x.ndim - chosen.ndim))
    return jnp.take_along_axis(x, at, axis=3)[:, :, :, 0]

  means, scales, slants = map(of_chosen, (means, jnp.exp(log_scales), slants))
  first, second = noise[..., 0], noise[..., 1]
  # sqrt(1 - tanh(a)^2) is 1 / cosh(a).
  second = jnp.tanh(slants) * first + second / jnp.cosh(slants)
  return means + scales * jnp.stack([first, second], axis=-1)


def mixture_divergence(
    own: Mixture, theirs: Mixture, samples: jax.Array) -> jax.Array:
  """Computes the KL of a mixture of Gaussians from the teacher's, by samples.

  It is 1/S sum_s (log f(x_s) - log g(x_s)), where f is the density of the teacher and
  g that of the model, see `terms.bivariate`. The KL of mixtures has no closed form;
  with x_s drawn from f this is its unbiased estimate (Hershey and Olsen, 2007,
  "Approximating the Kullback Leibler Divergence Between Gaussian Mixture Models",
  section 2), and so is its gradient.

  Args:
    own: The model's mixture, as `mixture_samples` takes it.
    theirs: The teacher's; its M may be another.
    samples: x, f32[S, B, T, 2], drawn from the teacher's.

  Returns:
    f32[B, T], in nats; 0 if both are equal, at least 0 on average, and below it for
    some samples.
  """
  nll = lambda mixture: jax.vmap(lambda values: terms.bivariate(
      *(mixture[name] for name in MIXTURE), values=values))(samples)
  return (nll(own) - nll(theirs)).mean(0)


def _check_positive(temperature: float) -> None:
  if not temperature > 0:
    raise errors.UserError(
        f"The temperature is {temperature}, must be above 0. 1 leaves predictions as"
        " they are.")


def _check_widths(name: str, theirs: jax.Array, own: jax.Array) -> None:
  """Refuses arrays that would be broadcast along what is summed."""
  if own.shape[-1] != theirs.shape[-1]:
    raise errors.UserError(
        f"{name}: the last dimensions are {own.shape[-1]} and {theirs.shape[-1]}, and"
        " must be equal.")
