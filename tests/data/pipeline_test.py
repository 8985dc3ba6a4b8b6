"""Tests for batches: packing, buckets, padding, shuffling and resuming."""

import dataclasses
import json

import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers

PAD, BOS, EOS, SEP = range(4)


def texts(count, seed=0):
  rng = np.random.default_rng(seed)
  return ["é" + "abcdefgh "[: rng.integers(1, 9)] * rng.integers(1, 5) + str(i)
          for i in range(count)]


def prepare(pairs=False, count=50, tokenizer=None, encoder=None, **fields):
  fields = {"length": 16} | ({"input_field": "q"} if pairs else {}) | fields
  made = {
      split: [
          documents.Document(f"q{split[:2]}{i}" * (i % 4 + 1) if pairs else "", text)
          for i, text in enumerate(texts(n, seed))]
      for seed, (split, n) in enumerate(
          {"train": count, "validation": 7, "test": 11}.items())}
  tokenizer = tokenizer or tokenizers.build(config.Tokenizer(kind="bytes"), ())
  return made, pipeline.prepare(
      config.Data(**fields), made, tokenizer, {}, encoder)


def ids(text):
  return [byte + 4 for byte in text.encode()]


def take(batches, count):
  return [next(batches) for _ in range(count)]


def assert_same(one, two):
  for batch, other in zip(one, two, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


@pytest.mark.parametrize("pairs", [False, True])
def test_token_counts_cover_the_training_texts_that_are_kept(pairs):
  made, prepared = prepare(pairs=pairs, length=40)

  # A row of a pair has one input fewer than tokens: bos, sep and eos make + 2.
  kept = [document for document in made["train"]
          if not pairs or len(ids(document.input + document.target)) + 2 <= 40]
  expected = np.zeros(260, np.int64)
  for document in kept:
    for token in ids(document.input + document.target):
      expected[token] += 1
  np.testing.assert_array_equal(prepared.token_counts, expected)
  # With pairs, some texts are too long and must not be counted.
  assert not pairs or 0 < len(kept) < len(made["train"])


def test_joined_rows_contain_every_token_once_as_a_target():
  made, prepared = prepare(packing="joined")

  batches = list(prepared.evaluation_batches("test", 4))

  # The reference is the stream of all documents that the windows are cut from.
  stream, owners = [], []
  for i, document in enumerate(made["test"]):
    stream += [BOS, *ids(document.target), EOS]
    owners += [-1] + [i] * (len(ids(document.target)) + 1)
  inputs, targets, docs, weights = (
      np.concatenate([batch[name] for batch in batches]).reshape(-1)
      for name in ("inputs", "targets", "documents", "weights"))
  size = len(stream) - 1
  assert inputs[:size].tolist() == stream[:-1]
  assert targets[:size].tolist() == stream[1:]
  assert docs[:size].tolist() == owners[1:]
  assert (docs[size:] == -1).all() and (targets[size:] == PAD).all()
  np.testing.assert_array_equal(weights, docs >= 0)
  assert {batch["inputs"].shape for batch in batches} == {(4, 16)}
  assert {name: value.dtype for name, value in batches[0].items()} == {
      "inputs": np.int32, "targets": np.int32, "weights": np.float32,
      "documents": np.int32}


def test_packed_rows_predict_each_document_from_its_own_beginning():
  made, prepared = prepare(length=40)

  found = {}
  for batch in prepared.evaluation_batches("test", 4):
    for inputs, targets, docs, positions in zip(*(batch[name] for name in (
        "inputs", "targets", "documents", "positions"))):
      for start in np.flatnonzero((positions == 0) & (docs >= 0)):
        mine = docs == docs[start]
        assert positions[mine].tolist() == [*range(mine.sum())]
        found[docs[start]] = inputs[mine].tolist(), targets[mine].tolist()

  assert found == {i: ([BOS, *ids(document.target)], [*ids(document.target), EOS])
                   for i, document in enumerate(made["test"])}


def test_the_first_token_of_a_packed_text_without_marks_is_no_target():
  made, prepared = prepare(tokenizer=_Bare(), length=40)

  batches = list(prepared.evaluation_batches("test", 4))

  counted = np.concatenate([batch["documents"] for batch in batches])
  for i, document in enumerate(made["test"]):
    text = document.target.encode()
    first = len(_Bare().tokens[_Bare().encode(document.target)[0]])
    assert prepared.document_bytes("test")[i] == len(text) - first
    assert (counted == i).sum() == len(_Bare().encode(document.target)) - 1


def test_packed_parts_of_a_mixture_keep_their_documents_apart():
  """The rows of one part may hold one document each, and need no positions alone."""
  tokenizer = tokenizers.build(config.Tokenizer(kind="bytes"), ())
  long, short = documents.Document("", "x" * 15), documents.Document("", "yy")
  splits = {split: [long, *(dataclasses.replace(short, part=1) for _ in range(3))]
            for split in documents.SPLITS}

  prepared = pipeline.prepare(
      config.Data(length=16), splits, tokenizer, {"shares": [0.5, 0.5]})

  [batch] = prepared.evaluation_batches("test", 2)
  assert batch["positions"][0].tolist() == [*range(16)]
  assert batch["positions"][1, :9].tolist() == [0, 1, 2] * 3
  assert batch["documents"][0].tolist() == [0] * 16
  assert batch["documents"][1].tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [-1] * 7


def test_pairs_go_into_the_shortest_bucket_that_fits():
  made, prepared = prepare(pairs=True, length=40, buckets=(16, 24))

  rows = {}
  for batch in prepared.evaluation_batches("train", 8):
    assert batch["inputs"].shape[0] == 8
    for i in np.flatnonzero(batch["weights"].any(1)):
      (document,) = set(batch["documents"][i].tolist()) - {-1}
      assert document not in rows
      rows[document] = {name: value[i] for name, value in batch.items()}

  for i, document in enumerate(made["train"]):
    question, answer = ids(document.input), ids(document.target)
    row = [BOS, *question, SEP, *answer, EOS]
    size = len(row) - 1
    if size > 40:
      assert i not in rows
      continue
    length = next(bucket for bucket in (16, 24, 40) if bucket >= size)
    padding = [0] * (length - size)
    assert rows[i]["inputs"].tolist() == row[:-1] + padding
    assert rows[i]["targets"].tolist() == row[1:] + padding
    assert rows[i]["weights"].tolist() == (
        [0] * (len(question) + 1) + [1] * (len(answer) + 1) + padding)
    assert (rows[i]["documents"] == np.where(rows[i]["weights"], i, -1)).all()
  dropped = len(made["train"]) - len(rows)
  assert 0 < dropped < 40
  counts = prepared.facts["splits"]["train"]
  assert counts["dropped"] == {"too_many_tokens": dropped}
  assert counts["kept"] == len(rows) == sum(counts["rows"].values())
  assert set(prepared.lengths) == {16, 24, 40}
  assert json.loads(json.dumps(prepared.facts)) == prepared.facts


def encoder(**fields):
  return config.Recurrent(encoder=True, **fields)


@pytest.mark.parametrize("marks, start, before, behind", [
    ("eos", -1, [], [EOS]), ("none", 9, [], []), ("both", 0, [BOS], [EOS])])
def test_encoder_and_decoder_rows_share_one_bucket_length(
    marks, start, before, behind):
  made, prepared = prepare(
      pairs=True, length=24, buckets=(8, 16),
      encoder=encoder(encoder_marks=marks, start_token=start))

  rows = {}
  for batch in prepared.evaluation_batches("train", 8):
    assert batch["encoder_inputs"].shape == batch["inputs"].shape
    assert len(batch["inputs"]) == 8
    assert batch["encoder_counts"].dtype == batch["encoder_inputs"].dtype == np.int32
    assert (batch["encoder_counts"] > 0).all()
    for i in np.flatnonzero(batch["weights"].any(1)):
      (document,) = set(batch["documents"][i].tolist()) - {-1}
      assert document not in rows
      rows[document] = {name: value[i] for name, value in batch.items()}

  for i, document in enumerate(made["train"]):
    source = [*before, *ids(document.input), *behind]
    answer = [BOS if start < 0 else start, *ids(document.target), EOS]
    size = max(len(source), len(answer) - 1)
    if size > 24:
      assert i not in rows
      continue
    length = next(bucket for bucket in (8, 16, 24) if bucket >= size)
    padded = lambda row, length=length: row + [PAD] * (length - len(row))
    assert rows[i]["encoder_inputs"].tolist() == padded(source)
    assert rows[i]["encoder_counts"] == len(source)
    assert rows[i]["inputs"].tolist() == padded(answer[:-1])
    assert rows[i]["targets"].tolist() == padded(answer[1:])
    assert rows[i]["weights"].sum() == len(answer) - 1
    assert (rows[i]["documents"] == np.where(rows[i]["weights"], i, -1)).all()
  dropped = len(made["train"]) - len(rows)
  counts = prepared.facts["splits"]["train"]
  assert counts["dropped"] == {"too_many_tokens": dropped} and 0 < dropped < 40
  assert counts["kept"] == len(rows) == sum(counts["rows"].values())
  assert counts["tokens"] == sum(row["weights"].sum() for row in rows.values())
  assert prepared.lengths == (8, 16, 24)
  longer = [len(ids(made["train"][i].input)) > len(ids(made["train"][i].target))
            for i in rows]
  # Both sides occur as the longer one, which decides the bucket.
  assert any(longer) and not all(longer)


def test_encoder_batches_resume_from_a_saved_state():
  made, prepared = prepare(
      pairs=True, count=12, length=24, buckets=(16,), encoder=encoder())
  batches = prepared.train_batches(8, seed=5)
  take(batches, 3)
  state = batches.get_state()

  want = take(batches, 5)
  batches.set_state(state)

  assert_same(take(batches, 5), want)
  assert {"encoder_inputs", "encoder_counts"} < want[0].keys()


def test_an_encoder_without_inputs_is_refused():
  with pytest.raises(errors.UserError, match="reads inputs, but the data has none"):
    prepare(encoder=encoder())
  with pytest.raises(errors.UserError, match="encoder_marks is 'bos', must be one of"):
    prepare(pairs=True, encoder=encoder(encoder_marks="bos"))


@pytest.mark.parametrize("pairs", [False, True])
def test_document_bytes_count_only_evaluated_targets(pairs):
  made, prepared = prepare(pairs=pairs, length=24)

  found = prepared.document_bytes("test")

  evaluated = {
      i for batch in prepared.evaluation_batches("test", 3)
      for i in np.unique(batch["documents"]) if i >= 0}
  assert found.tolist() == [
      len(document.target.encode()) if i in evaluated else 0
      for i, document in enumerate(made["test"])]
  assert found.dtype == np.int64 and pairs == (len(evaluated) < len(made["test"]))


@pytest.mark.parametrize("pairs", [False, True])
def test_each_epoch_contains_every_row_once_in_a_new_order(pairs):
  _, prepared = prepare(pairs=pairs, count=64, length=60)
  (count,) = prepared.facts["splits"]["train"]["rows"].values()
  batches = prepared.train_batches(count, seed=3)

  first, second = take(batches, 2)

  rows = [sorted(map(tuple, batch["inputs"])) for batch in (first, second)]
  assert rows[0] == rows[1] and len(set(rows[0])) == count
  assert (first["inputs"] != second["inputs"]).any()
  assert (next(prepared.train_batches(count, seed=4))["inputs"]
          != first["inputs"]).any()


@pytest.mark.parametrize("pairs", [False, True])
def test_batches_of_one_row_give_the_rows_of_larger_ones(pairs):
  _, prepared = prepare(pairs=pairs, length=48)
  rows = lambda size, count: np.concatenate([
      batch["inputs"] for batch in take(prepared.train_batches(size, seed=3), count)])

  np.testing.assert_array_equal(rows(1, 24), rows(4, 6))


def test_buckets_are_drawn_in_proportion_to_their_rows():
  _, prepared = prepare(pairs=True, count=200, length=48, buckets=(16, 24))
  rows = prepared.facts["splits"]["train"]["rows"]
  total = sum(rows.values())

  lengths = [
      batch["inputs"].shape[1]
      for batch in take(prepared.train_batches(4, seed=0), 200)]

  for length, count in rows.items():
    # Only rounding separates the counts from the exact proportion.
    assert abs(lengths.count(int(length)) - 200 * count / total) <= 2


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("done", [0, 1, 13])
def test_batches_resume_from_a_saved_state(pairs, done):
  # Two batches of 8 hold more rows than an epoch does, so the state crosses epochs.
  made, prepared = prepare(pairs=pairs, count=12, length=40, buckets=(20,) * pairs)
  batches = prepared.train_batches(8, seed=5)
  take(batches, done)
  state = json.loads(json.dumps(batches.get_state()))
  want = take(batches, 9)

  fresh = pipeline.prepare(
      config.Data(length=40, input_field="q" * pairs, buckets=(20,) * pairs), made,
      prepared.tokenizer, {}).train_batches(8, seed=5)
  take(fresh, 3)
  fresh.set_state(state)

  assert_same(take(fresh, 9), want)
  batches.set_state(state)
  assert_same(take(batches, 9), want)


@pytest.mark.parametrize("fields", [
    {}, {"pairs": True, "buckets": (6, 10),
         "corrupt": config.Corrupt(word_dropout=0.4),
         "tokenizer": tokenizers.build(config.Tokenizer(
             kind="characters", sentinels=1), texts(9) + ["q0123456789tr"])}])
def test_parts_of_batches_are_those_of_the_whole_ones_and_resume_as_they_do(fields):
  _, prepared = prepare(**fields)
  whole = prepared.train_batches(8, seed=5)
  picks = ([0, 1, 6], [2, 3, 4, 5, 7])
  parts = [prepared.train_batches(8, 5, lambda size, pick=pick: pick) for pick in picks]

  for _ in range(20):
    expected = next(whole)
    for part, pick in zip(parts, picks):
      assert_same([next(part)], [{name: x[pick] for name, x in expected.items()}])

  # Another process, or another number of them, takes up where any of them stood.
  other = prepared.train_batches(8, 5, lambda size: [3])
  other.set_state(json.loads(json.dumps(parts[0].get_state())))
  assert_same([next(other)], [{name: x[[3]] for name, x in next(whole).items()}])


def test_unknown_characters_are_counted_in_the_facts():
  tokenizer = tokenizers.build(config.Tokenizer(kind="characters"), ["abcdefgh "])

  made, prepared = prepare(tokenizer=tokenizer)

  want = sum(character not in "abcdefgh "
             for document in made["test"] for character in document.target)
  assert prepared.facts["splits"]["test"]["unknown_tokens"] == want > 0
  assert prepared.facts["tokenizer"]["size"] == tokenizer.size == 14


class _EndOnly:
  """A tokenizer whose only special token is the end of text, like that of GPT-2."""
  size, tokens, roles = 260, (b"",) * 260, {"eos": 9}

  def encode(self, text):
    return ids(text)

  def encode_batch(self, found):
    return [ids(text) for text in found]


def test_eos_replaces_missing_special_tokens_with_a_note():
  made, prepared = prepare(pairs=True, length=48, tokenizer=_EndOnly())

  batch = next(prepared.evaluation_batches("test", 16))

  document = made["test"][0]
  row = [9, *ids(document.input), 9, *ids(document.target), 9]
  size = len(row) - 1
  assert batch["inputs"][0, :size].tolist() == row[:-1]
  assert (batch["inputs"][0, size:] == 9).all()
  assert batch["weights"][0].sum() == len(ids(document.target)) + 1
  assert len(prepared.facts["tokenizer"]["notes"]) == 3


def test_data_that_give_no_batch_are_refused():
  with pytest.raises(errors.UserError, match="longer than data.length=4"):
    prepare(pairs=True, length=4)
  with pytest.raises(errors.UserError, match="batch_size=0"):
    prepare()[1].train_batches(0, seed=0)
  with pytest.raises(errors.UserError, match="data.buckets"):
    prepare(pairs=True, length=16, buckets=(32,))


class _Bare(_EndOnly):
  """A tokenizer without special tokens."""
  roles = {}


def test_joined_texts_run_on_if_there_are_no_special_tokens():
  made, prepared = prepare(tokenizer=_Bare(), packing="joined")

  batches = list(prepared.evaluation_batches("test", 4))

  stream, owners = [], []
  for i, document in enumerate(made["test"]):
    stream += ids(document.target)
    owners += [i] * len(ids(document.target))
  inputs, targets, docs = (
      np.concatenate([batch[name] for batch in batches]).reshape(-1)
      for name in ("inputs", "targets", "documents"))
  size = len(stream) - 1
  assert inputs[:size].tolist() == stream[:-1]
  assert targets[:size].tolist() == stream[1:]
  assert docs[:size].tolist() == owners[1:] and (docs[size:] == -1).all()
  assert "run on without marks" in prepared.facts["tokenizer"]["notes"][0]


def test_pairs_without_an_end_of_text_are_refused():
  with pytest.raises(errors.UserError, match="pairs need an end-of-text token"):
    prepare(pairs=True, tokenizer=_Bare())
