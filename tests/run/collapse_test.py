"""Tests that annealing keeps a latent in use (Bowman et al., 2016).

The weight of the KL ends at the same value in both runs of a test, and its schedule is
all that they differ in. They train in processes of one device: on eight simulated ones
a step takes longer, and XLA ends a process in which one of them is late.
"""

import pathlib

import numpy as np
import pytest

from tests import paths
from tests import processes
from tests import small_runs
from transfer_gen import config
from transfer_gen.run import loop

LETTERS = paths.DATA / "omniglot_strokes" / "omniglot_strokes.npz"
POINTS = 40


def train_texts(folder, schedule):
  """Trains an autoencoder of text.txt, the weight of whose KL ends at 1."""
  text = pathlib.Path(folder).parent / "text.txt"
  loop.train(small_runs.configure(
      text, config.Recurrent(cell="gru", num_layers=1, embed_width=8, hidden_width=24,
                             encoder=True, latent_width=4),
      steps=400, log_every=400, lr=1e-2,
      tokenizer=config.Tokenizer(kind="characters", sentinels=1),
      objective=config.Objective(kl=config.Term(schedule=schedule)),
      data=config.Data(name="files", train=str(text), length=12,
                       corrupt=config.Corrupt(noise=("copy",)))), folder)


def train_drawings(folder, schedule):
  """Trains a model of letters, the weight of whose KL ends at 1.5."""
  annealed = {} if schedule == "constant" else dict(schedule=schedule, last_step=180)
  loop.train(config.Run(
      model=config.Sketch(
          hidden_width=64, encoder_width=32, latent_width=8, mixtures=5),
      data=config.Data(
          name="files", train=str(LETTERS), length=POINTS, fraction=0.1,
          max_validation=100, max_test=100,
          corrupt=config.Corrupt(stretch=0.1, drop_points=0.1)),
      tokenizer=config.Tokenizer(kind="strokes"),
      objective=config.Objective(
          bivariate=config.Term(), kl=config.Term(weight=1.5, **annealed)),
      optim=config.Optim(lr=1e-2, warmup_steps=10),
      train=config.Train(steps=240, batch_size=32, log_every=50, eval_every=240,
                         checkpoint_every=240)), folder)


def _validated(train, folder, schedule):
  """Trains in a process of its own; returns the terms of the last validation."""
  processes.call(train, folder / schedule, schedule)
  found = small_runs.metrics(folder / schedule)[-1]
  assert found["split"] == "validation"
  return found


# A decoder that reads what stands before needs the latent for the first letter and the
# digits alone, which saves as many nats as it costs. With full weight from the first
# step on, the KL is pressed down before the decoder has learned to read the latent.
@pytest.mark.long
def test_the_latent_of_a_text_collapses_unless_the_weight_of_its_kl_rises(tmp_path):
  draw = np.random.default_rng(0)
  (tmp_path / "text.txt").write_text("".join(
      f"{letter * 8}{draw.integers(10, 100)}\n"
      for letter in draw.choice(list("abcdefghijklmnop"), 500)))

  constant, annealed = (
      found["kl"] * found["tokens"] / found["documents"]  # Nats of a text.
      for found in (_validated(train_texts, tmp_path, schedule)
                    for schedule in ("constant", "linear")))

  assert constant < 1 < annealed, (constant, annealed)


@pytest.mark.long
@pytest.mark.skipif(not LETTERS.exists(), reason="needs letters")
def test_the_latent_of_a_drawing_collapses_unless_the_weight_of_its_kl_rises(tmp_path):
  # All positions of a row have a share of its KL.
  constant, annealed = (
      _validated(train_drawings, tmp_path, schedule)["kl"] * POINTS
      for schedule in ("constant", "linear"))

  assert constant < 1 < annealed, (constant, annealed)
