"""Pairs with more tokens than a row: dropped, cut or refused, and always counted."""

import itertools

import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers

PAD, BOS, EOS, SEP = range(4)
ENCODER = config.EncoderDecoder(encoder_marks="both")
# Lengths of input and target in bytes, which are tokens here.
LENGTHS = tuple(itertools.product((1, 4, 5, 6, 9, 30), repeat=2))


def prepare(encoder=None, length=12, **fields):
  made = [documents.Document("abcdefghi" * 4, "ABCDEFGHI" * 4)]
  made = [documents.Document(made[0].input[:a], made[0].target[:b]) for a, b in LENGTHS]
  data = config.Data(input_field="q", length=length, **fields)
  tokenizer = tokenizers.build(config.Tokenizer(kind="bytes"), ())
  splits = dict.fromkeys(("train", "validation", "test"), made)
  return pipeline.prepare(data, splits, tokenizer, {}, encoder)


def rows(prepared, name="inputs"):
  """Returns the rows of a split in the order of their documents, without padding."""
  (batch,) = prepared.evaluation_batches("test", len(LENGTHS))
  found = {int(row.max()): batch[name][i] for i, row in enumerate(batch["documents"])}
  return [found[i][found[i] != PAD].tolist() for i in sorted(found) if i >= 0]


def test_a_cut_pair_keeps_its_target_up_to_half_of_the_row():
  prepared = prepare(too_long="cut")

  for (a, b), row in zip(LENGTHS, rows(prepared), strict=True):
    # The last token of a row is only a target, so inputs end before eos.
    sep = row.index(SEP)
    kept = sep - 1, len(row) - sep - 1
    if a + b <= 10:
      assert kept == (a, b)
    else:
      assert sum(kept) == 10 and kept[1] == max(min(b, 5), min(b, 10 - a)), (a, b)
    assert row == [BOS, *(byte + 4 for byte in (b"abcdefghi" * 4)[:kept[0]]), SEP,
                   *(byte + 4 for byte in (b"ABCDEFGHI" * 4)[:kept[1]])]
  long = sum(a + b > 10 for a, b in LENGTHS)
  assert prepared.facts["splits"]["test"]["cut"] == long > 0
  assert not prepared.facts["splits"]["test"]["dropped"]


def test_both_sides_of_an_encoder_and_decoder_are_cut_on_their_own():
  prepared = prepare(ENCODER, too_long="cut")

  for (a, b), read, written in zip(
      LENGTHS, rows(prepared, "encoder_inputs"), rows(prepared), strict=True):
    assert (len(read), len(written)) == (min(a, 10) + 2, min(b, 11) + 1)
    assert (read[0], read[-1]) == (BOS, EOS)
  assert prepared.facts["splits"]["test"]["cut"] == sum(
      a > 10 or b > 11 for a, b in LENGTHS)


@pytest.mark.parametrize("encoder", [None, ENCODER])
def test_what_is_dropped_by_default_is_what_would_be_cut(encoder):
  dropped, cut = prepare(encoder), prepare(encoder, too_long="cut")

  count = dropped.facts["splits"]["train"]["dropped"]["too_many_tokens"]
  assert count == cut.facts["splits"]["train"]["cut"]
  assert dropped.facts["splits"]["train"]["kept"] == len(LENGTHS) - count
  short = dict(zip(LENGTHS, rows(cut)))
  whole = [pair for pair in LENGTHS if (
      sum(pair) <= 10 if encoder is None else pair[0] <= 10 and pair[1] <= 11)]
  assert rows(dropped) == [short[pair] for pair in whole]


@pytest.mark.parametrize("encoder, long", [
    (None, sum(a + b > 10 for a, b in LENGTHS)),
    (ENCODER, sum(a > 10 or b > 11 for a, b in LENGTHS))])
def test_pairs_that_are_too_long_are_refused_where_asked(encoder, long):
  with pytest.raises(errors.UserError, match=(
      f"{long} of 36 pairs do not fit into data.length=12 tokens; the longest side"
      " has 30. Raise data.length, or set data.too_long to drop or cut")):
    prepare(encoder, too_long="refuse")

  fits = prepare(encoder, too_long="refuse", length=62)
  np.testing.assert_array_equal(
      fits.document_bytes("test"), [b for _, b in LENGTHS])
