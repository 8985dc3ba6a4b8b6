"""Tests of drawing point by point, against the distributions that a model states."""

import jax.numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import tree
from transfer_gen.generate import drawing
from transfer_gen.models import registry
from transfer_gen.models import sketch

MANY = 20_000  # Shares of so many drawings are known to less than 0.01.
PENS, PARTS = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.6])
MEANS = np.array([[-50.0, 3.0], [50.0, -1.0]])  # So far apart that it shows which one.
SCALES, RHOS = np.array([[0.5, 2.0], [3.0, 0.25]]), np.array([0.8, -0.6])


@pytest.fixture(scope="module")
def draw():
  """Returns what draws with a model whose biases alone say how, whatever it reads."""
  module = registry.build(config.Sketch(
      vocab_size=3, hidden_width=2, latent_width=0, mixtures=2))
  params = {name: np.zeros(spec.shape, np.float32)
            for name, spec in registry.specs(module).items()} | {
                "head/bias_pen": np.log(PENS),
                "head/bias_mixture_logits": np.log(PARTS),
                "head/bias_mixture_means": MEANS,
                "head/bias_mixture_log_scales": np.log(SCALES),
                "head/bias_mixture_slants": np.arctanh(RHOS)}
  variables = {"params": tree.unflatten(
      {name: jnp.asarray(value, jnp.float32) for name, value in params.items()})}
  keys, program = drawing.keys(0, jnp.arange(MANY)), drawing.program(module, 3)
  return lambda temperature: [np.asarray(x) for x in program(
      variables, None, keys, jnp.float32(temperature))]


def test_points_are_drawn_from_the_mixture_at_the_temperature(draw):
  offsets, pens = draw(0.25)

  powers = PENS ** 4 / (PENS ** 4).sum()
  begun = pens[:, 0] != sketch.END
  assert begun.all()  # No drawing is empty.
  shares = np.bincount(pens[:, 0], minlength=3) / MANY
  np.testing.assert_allclose(shares[:2], powers[:2] / powers[:2].sum(), atol=0.01)
  np.testing.assert_allclose(
      np.bincount(pens[:, 1], minlength=3) / MANY, powers, atol=0.005)
  right = offsets[:, 0, 0] > 0
  assert right.mean() == pytest.approx(0.6 ** 4 / (0.4 ** 4 + 0.6 ** 4), abs=0.01)
  for part, chosen in enumerate((~right, right)):
    found, scales = offsets[chosen, 0], SCALES[part] * 0.25 ** 0.5
    np.testing.assert_allclose(found.mean(0), MEANS[part], atol=0.1)
    np.testing.assert_allclose(found.std(0), scales, rtol=0.05)
    assert np.corrcoef(found.T)[0, 1] == pytest.approx(RHOS[part], abs=0.05)
  # Which point it is leads to other noise.
  assert (offsets[pens[:, 1] != sketch.END, 0] != offsets[
      pens[:, 1] != sketch.END, 1]).all()


def test_what_has_ended_stays_so_and_has_no_offsets(draw):
  offsets, pens = draw(1.0)

  ended = pens[:, 1] == sketch.END
  assert ended.mean() == pytest.approx(PENS[2], abs=0.01)
  assert (pens[ended, 2] == sketch.END).all()
  assert not offsets[ended, 1:].any() and offsets[~ended, 1].all()


def test_at_no_temperature_the_likeliest_is_drawn(draw):
  offsets, pens = draw(0.0)

  assert (pens == sketch.DOWN).all()
  np.testing.assert_allclose(offsets, np.broadcast_to(MEANS[1], offsets.shape))


def test_latents_of_the_prior_are_normal_and_a_number_decides_each():
  found = np.asarray(drawing.prior(3, jnp.arange(2000), 4))

  assert np.abs(found.mean(0)).max() < 0.1 and np.abs(found.std(0) - 1).max() < 0.1
  assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.1
  np.testing.assert_allclose(drawing.prior(3, jnp.array([7]), 4)[0], found[7])
  assert np.abs(np.asarray(drawing.prior(4, jnp.array([7]), 4))[0] - found[7]).max() > 0


def test_latents_between_two_lie_on_an_arc():
  first, last = jnp.array([2.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 2.0])
  angles = np.linspace(0, np.pi / 2, 5)

  found = drawing.between(first, last, 5)

  np.testing.assert_allclose(found, 2 * np.stack(
      [np.cos(angles), 0 * angles, np.sin(angles)], axis=1), atol=1e-5)


@pytest.mark.parametrize("last", [[3.0, 6.0], [1.0, 2.0], [-1.0, -2.0]])
def test_latents_on_one_line_have_no_arc_between_them(last):
  found = drawing.between(jnp.array([1.0, 2.0]), jnp.array(last), 3)

  np.testing.assert_allclose(
      found, [[1, 2], (np.array([1, 2]) + last) / 2, last], atol=1e-5)
