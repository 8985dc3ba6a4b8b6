"""Tests for scores by document."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.train import score as evaluate


def _scores(nats, tokens=None, text_bytes=None):
  nats = np.asarray(nats, np.float64)
  full = lambda x: np.full(len(nats), 10) if x is None else np.asarray(x)
  return evaluate.Scores(nats=nats, tokens=full(tokens), text_bytes=full(text_bytes))


def _prepared():
  texts = ["short", "a longer text than that", "zz"] * 9
  docs = [documents.Document(input="", target=text) for text in texts]
  tokenizer = tokenizers.build(config.Tokenizer(kind="bytes"), texts)
  data = config.Data(name="files", train="x", length=7)
  return texts, pipeline.prepare(
      data, dict.fromkeys(("train", "validation", "test"), docs), tokenizer, {})


def test_scores_do_not_depend_on_the_batch_size():
  texts, data = _prepared()
  by_token = lambda params, batch, key: (batch["targets"] + params["offset"]).astype(
      jnp.float32)

  totals = []
  for batch_size in (1, 4, 64):
    score = evaluate.make_scorer(by_token)
    totals.append(score({"offset": jnp.ones((1, 1), jnp.int32)}, data, "test",
                        batch_size))

  ids = data.tokenizer.encode_batch(texts)
  expected = [sum(i + 1 for i in row) + data.roles["eos"] + 1 for row in ids]
  for scores in totals:
    np.testing.assert_array_equal(scores.nats, expected)
    np.testing.assert_array_equal(scores.tokens, [len(text) + 1 for text in texts])
    np.testing.assert_array_equal(scores.text_bytes, [len(text) for text in texts])


def test_loss_is_averaged_over_tokens_not_documents():
  metrics = _scores([10.0, 1.0], tokens=[1, 9], text_bytes=[2, 20]).metrics()

  assert metrics["loss"] == pytest.approx(11 / 10)
  assert metrics["bits_per_byte"] == pytest.approx(11 / math.log(2) / 22)
  assert metrics["perplexity"] == pytest.approx(math.exp(1.1))


def test_a_dropped_document_is_not_counted():
  metrics = _scores([3.0, 0.0], tokens=[2, 0], text_bytes=[4, 0]).metrics()

  assert metrics["documents"] == 1 and metrics["loss"] == pytest.approx(1.5)


def test_texts_compare_across_tokens_in_bits_per_byte_and_drawings_by_their_loss():
  text, drawing = (_scores([10.0, 1.0], tokens=[1, 9], text_bytes=text_bytes)
                   for text_bytes in ([2, 20], [0, 0]))

  assert text.across_tokens == pytest.approx(11 / math.log(2) / 22)
  assert drawing.across_tokens == pytest.approx(11 / 10)
