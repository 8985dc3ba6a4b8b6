"""Mixtures: rows of each part come in the given shares, each part in whole epochs."""

import collections
import itertools

import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers


@pytest.fixture
def prepare(tmp_path, monkeypatch):
  """Returns a function that prepares a mixture of 20 texts "a..." and 200 "b..."."""
  monkeypatch.chdir(tmp_path)
  for name, count in (("a", 20), ("b", 200)):
    lines = [f"{name}{i:03}" + "." * (i % 7) for i in range(count)]
    (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    (tmp_path / f"{name}.tsv").write_text(
        "q\ta\n" + "".join(f"{line}\t{line}\n" for line in lines))
  (tmp_path / "v.txt").write_text("v")
  (tmp_path / "v.tsv").write_text("q\ta\nv\tv\n")

  def prepare_(train, **fields):
    ending = train.partition(".")[2][:3]
    data = config.Data(name="files", train=train, validation=f"v.{ending}",
                       test=f"v.{ending}", **fields)
    # The same text in both, of which the test split keeps it.
    (tmp_path / f"w.{ending}").write_text(
        (tmp_path / f"v.{ending}").read_text().replace("v", "w"))
    data.test = f"w.{ending}"
    tokenizer = tokenizers.build(config.Tokenizer(kind="bytes"), [])
    return pipeline.prepare(data, *_swap(documents.load(data), tokenizer))
  return prepare_


def _swap(loaded, tokenizer):
  found, facts = loaded
  return found, tokenizer, facts


def rows_of(prepared, steps, batch_size=4, seed=0):
  """Returns the first letter of each row that training reads, and the rows."""
  batches = prepared.train_batches(batch_size, seed)
  rows = [row for batch in itertools.islice(batches, steps)
          for row in map(prepared.tokenizer.decode, batch["inputs"])]
  return collections.Counter("a" if "a" in row else "b" for row in rows), rows


PAIRS = {"input_field": "q", "target_field": "a", "length": 32, "buckets": (12, 18)}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("ending, fields", [
    ("txt", {"length": 16}), ("tsv", PAIRS)])
def test_training_reads_each_part_in_its_share(prepare, share, ending, fields):
  prepared = prepare(f"a.{ending}*{share} + b.{ending}*{1 - share}", **fields)

  counts, _ = rows_of(prepared, 100)

  assert counts["a"] / 400 == pytest.approx(share, abs=0.01)
  assert counts["a"] + counts["b"] == 400


def test_a_part_is_read_as_a_whole_before_it_begins_again(prepare):
  prepared = prepare("a.tsv*0.5 + b.tsv*0.5", **PAIRS | {"buckets": ()})

  _, rows = rows_of(prepared, 10)

  first = [row for row in rows if "a" in row]
  assert len(set(first)) == len(first) == 20


def test_the_order_of_a_mixture_depends_on_the_seed_alone(prepare):
  prepared = prepare("a.tsv*0.5 + b.tsv*0.5", **PAIRS)

  assert rows_of(prepared, 20)[1] == rows_of(prepared, 20)[1]
  assert rows_of(prepared, 20)[1] != rows_of(prepared, 20, seed=1)[1]


def test_a_mixture_goes_on_from_a_stored_position(prepare):
  prepared = prepare("a.tsv*0.3 + b.tsv*0.7", **PAIRS)
  batches = prepared.train_batches(4, 0)
  for _ in range(7):
    next(batches)
  position = batches.get_state()
  wanted = [next(batches)["inputs"] for _ in range(5)]

  again = prepared.train_batches(4, 0)
  again.set_state(position)

  for want in wanted:
    np.testing.assert_array_equal(next(again)["inputs"], want)


def test_no_row_holds_texts_of_two_parts(prepare):
  _, rows = rows_of(prepare("a.txt*0.5 + b.txt*0.5", length=16), 200)

  assert not any({"a", "b"} <= set(row) for row in rows)


def test_a_part_without_a_document_is_refused(prepare):
  with pytest.raises(errors.UserError, match="no document is left of part 1"):
    prepare("a.tsv*0.5 + b.tsv*0.5", **PAIRS, fraction=1 / 220)
