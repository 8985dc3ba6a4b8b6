"""Tests for corrupted rows: what decides them, what they hold, and what they need."""

import dataclasses

import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.data import encoding
from transfer_gen.data import noise
from transfer_gen.data import pipeline
from transfer_gen.data import special_tokens
from transfer_gen.data import tokenizers

T = 24
MODEL = config.EncoderDecoder(num_layers=1, width=8, num_heads=2, max_length=T)
SPANS = config.Corrupt(noise=("spans",))
KINDS = pytest.mark.parametrize("corrupt", [
    SPANS, config.Corrupt(noise=("masking",)), config.Corrupt(noise=("deletion",)),
    config.Corrupt(noise=("sentences", "infilling"), word_dropout=0.3)],
    ids=lambda corrupt: "_".join(corrupt.noise))


def _texts(count, seed):
  generator = np.random.default_rng(seed)
  return ["".join(generator.choice(list("abcdef. "), size=generator.integers(2, 80)))
          for _ in range(count)]


def _prepare(corrupt, encoder=MODEL, kind="bytes", sentinels=8, length=T, **fields):
  tokenizer = tokenizers.build(
      config.Tokenizer(kind=kind, sentinels=sentinels), _texts(30, 0))
  made = {split: [documents.Document("", text) for text in _texts(count, seed)]
          for seed, (split, count) in enumerate((("train", 30), ("validation", 6)))}
  return made, pipeline.prepare(
      config.Data(length=length, corrupt=corrupt, **fields), made, tokenizer, {},
      encoder)


def _rows(data, batch_size=5, seed=3, count=60, position=None):
  """Returns rows in the order in which training reads them."""
  batches, rows = data.train_batches(batch_size, seed), []
  if position is not None:
    batches.set_state(position)
  while len(rows) < count:
    batch = next(batches)
    rows += [{name: value[i].tolist() for name, value in batch.items()}
             for i in range(batch_size)]
  return rows[:count], batches.get_state()


@KINDS
def test_rows_depend_on_seed_document_and_epoch_alone(corrupt):
  data = _prepare(corrupt)[1]
  count = sum(data.facts["splits"]["train"]["rows"].values())

  rows, _ = _rows(data, count=2 * count)

  # Other batches, another process, and a resumption at any place.
  assert _rows(_prepare(corrupt)[1], batch_size=2, count=2 * count)[0] == rows
  _, position = _rows(data, count=20)
  assert _rows(_prepare(corrupt)[1], count=40, position=position)[0] == rows[20:60]
  # Each epoch, and each run, draws anew.
  by_text = [sorted(map(str, part)) for part in (rows[:count], rows[count:])]
  assert by_text[0] != by_text[1]
  assert _rows(data, seed=4, count=2 * count)[0] != rows


@KINDS
def test_evaluation_is_corrupted_in_the_same_way_each_time(corrupt):
  data = _prepare(corrupt)[1]

  first, second = (list(one.evaluation_batches("validation", 4))
                   for one in (data, _prepare(corrupt)[1]))

  _rows(data)
  for one, other, again in zip(
      first, second, data.evaluation_batches("validation", 4), strict=True):
    for name, value in one.items():
      np.testing.assert_array_equal(value, other[name])
      np.testing.assert_array_equal(value, again[name])


@KINDS
def test_targets_restore_the_whole_text(corrupt):
  made, data = _prepare(corrupt)
  tokenizer = data.tokenizer
  names = {row: name for name, row in tokenizer.special.items()}

  found = {}
  for batch in data.evaluation_batches("validation", 4):
    for row in range(4):
      counted = batch["weights"][row] > 0
      if not counted.any():
        continue
      read = batch["encoder_inputs"][row][:batch["encoder_counts"][row]].tolist()
      written = batch["targets"][row][counted].tolist()
      assert read[-1] == written[-1] == tokenizer.roles["eos"]
      # Decoders read what they were to write before, without dropout.
      assert batch["inputs"][row][1:counted.sum()].tolist() == written[:-1]
      document = batch["documents"][row].max()
      if corrupt.noise == ("spans",):
        written = _merged(read[:-1], written[:-1], names)
      else:
        written = written[:-1]
      found[document] = found.get(document, "") + tokenizer.decode(written)
  assert found == {i: one.target for i, one in enumerate(made["validation"])}


def test_a_copy_is_what_the_decoder_is_to_write_of_which_it_reads_a_part():
  copy = config.Corrupt(noise=("copy",), word_dropout=0.5)

  rows, _ = _rows(_prepare(copy)[1])

  dropped = 0
  for row in rows:
    count = int(sum(row["weights"]))
    assert row["encoder_inputs"][:row["encoder_counts"]] == row["targets"][:count]
    dropped += row["inputs"][1:count] != row["targets"][:count - 1]
  assert dropped > len(rows) / 2


def _merged(read, written, names):
  """Puts the spans behind sentinels into their places."""
  spans, key = {}, None
  for token in written:
    if names.get(token, "").startswith("<extra_id"):
      key = token
      spans[key] = []
    else:
      spans[key].append(token)
  return [token for one in read for token in (spans[one] if one in names else [one])]


def test_bytes_of_spans_are_those_that_are_written():
  _, data = _prepare(SPANS)

  sizes = np.zeros(6, int)
  for batch in data.evaluation_batches("validation", 4):
    for document, target in zip(
        batch["documents"].ravel(), batch["targets"].ravel(), strict=True):
      if document >= 0:
        sizes[document] += len(data.tokenizer.tokens[target])
  assert data.document_bytes("validation").tolist() == sizes.tolist()
  whole = _prepare(config.Corrupt(noise=("masking",)))
  assert whole[1].document_bytes("validation").tolist() == [
      len(one.target) for one in whole[0]["validation"]]
  assert 0 < sizes.sum() < len("".join(one.target for one in whole[0]["validation"]))


@pytest.mark.parametrize("packing", ["separate", "joined"])
def test_word_dropout_replaces_what_a_decoder_wrote_before(packing):
  corrupt = config.Corrupt(word_dropout=0.4)
  _, data = _prepare(corrupt, None, kind="characters", sentinels=0, packing=packing)
  _, plain = _prepare(config.Corrupt(), None, kind="characters", sentinels=0,
                      packing=packing)
  unk, dropped = data.tokenizer.roles["unk"], []

  for _ in range(3):
    one, other = (d.train_batches(8, 1) for d in (data, plain))
    for _ in range(20):
      noisy, clean = next(one), next(other)
      assert (noisy["targets"] == clean["targets"]).all()
      changed = noisy["inputs"] != clean["inputs"]
      assert (noisy["inputs"][changed] == unk).all()
      text = clean["inputs"] > 4  # Behind the special tokens.
      assert not changed[~text].any()
      dropped.append(changed[text].mean())
  assert np.mean(dropped) == pytest.approx(0.4, abs=0.03)
  for a, b in zip(*(d.evaluation_batches("validation", 4) for d in (data, plain)),
                  strict=True):
    np.testing.assert_array_equal(a["inputs"], b["inputs"])


def test_word_dropout_leaves_prompts_alone():
  pairs = {"train": [documents.Document(f"prompt {i}", f"answer {i}")
                     for i in range(20)]}
  tokenizer = tokenizers.build(config.Tokenizer(kind="bytes", sentinels=1), ())
  data = pipeline.prepare(
      config.Data(length=30, input_field="q",
                  corrupt=config.Corrupt(word_dropout=0.9)), pairs, tokenizer, {})

  batch = next(data.train_batches(16, 0))

  masks = batch["inputs"] == tokenizer.special["<mask>"]
  assert masks.sum() > 16 * 5
  for row in range(16):
    first = int(np.flatnonzero(batch["weights"][row])[0])
    assert not masks[row, :first + 1].any()  # The prompt and its sep.


@pytest.mark.parametrize("corrupt, fields, sentence", [
    (SPANS, dict(sentinels=1, length=64), "need 4 sentinels .*, and the tokenizer has"
     " 1: 3 are missing. Set tokenizer.sentinels=4"),
    (SPANS, dict(sentinels=1), "1 is missing"),
    (config.Corrupt(noise=("infilling",)), dict(sentinels=0), "has no mask"),
    (config.Corrupt(word_dropout=0.1), dict(sentinels=0, encoder=None),
     "neither an unknown token nor a mask"),
    (SPANS, dict(encoder=None), "the model has no encoder"),
    (SPANS, dict(input_field="q"), "the data are pairs already"),
    (config.Corrupt(noise=("spans", "masking")), {}, "stands alone"),
    (config.Corrupt(noise=("masking", "masking")), {}, "named once"),
    (config.Corrupt(noise=("deletion",)), dict(
        length=2, encoder=dataclasses.replace(MODEL, encoder_marks="both")),
     "2 are marks of the encoder's input, which leaves 0"),
    (config.Corrupt(noise=("dropping",)), {}, "must be one of masking, deletion"),
])
def test_noise_that_cannot_be_made_is_refused(corrupt, fields, sentence):
  with pytest.raises(errors.UserError, match=sentence):
    _prepare(corrupt, **fields)


@pytest.mark.parametrize("kind", ["bytes", "characters", "bpe"])
def test_sentinels_follow_or_precede_the_tokens_and_survive_saving(tmp_path, kind):
  texts = _texts(30, 0)
  build = lambda count: tokenizers.build(config.Tokenizer(
      kind=kind, size=300, sentinels=count), texts)
  marked, plain = build(2), build(0)

  marked.save(tmp_path / "t")
  back = tokenizers.load(tmp_path / "t")

  names = ["<mask>", "<extra_id_0>", "<extra_id_1>"]
  assert [name for name in marked.special if name in names] == names
  for one in (marked, back):
    assert one.special == marked.special and one.roles == marked.roles
    assert one.tokens == marked.tokens and one.size == marked.size
    ids = one.encode(texts[3])
    assert one.decode([*ids, one.special["<mask>"]]) == texts[3]
    assert not set(ids) & {one.special[name] for name in names}
    assert {one.tokens[one.special[name]] for name in names} == {b""}
  if kind != "bpe":  # Where nothing is trained, ids stay.
    assert marked.encode(texts[3]) == plain.encode(texts[3])
    assert marked.size == plain.size + 3


@pytest.mark.parametrize("density, mean", [
    (0.01, 1.0), (0.15, 3.0), (0.5, 1.0), (0.5, 10.0), (1.0, 2.0)])
@pytest.mark.parametrize("kind", ["spans", "infilling"])
def test_the_longest_texts_fill_their_rows_and_fit(kind, density, mean):
  tokenizer = tokenizers.build(config.Tokenizer(kind="bytes", sentinels=80), ())
  for length in (2, 3, 5, 24, 61):
    made = noise.Noise(encoding.Encoding(config.Data(
        length=length, corrupt=config.Corrupt(
            noise=(kind,), density=density, mean_span=mean)), tokenizer, MODEL))
    made.check()

    ids = np.arange(4, 4 + made.longest, dtype=np.int32)
    sides = [made.pair(ids, (seed,)) for seed in range(20)]

    # The encoder's eos, and the decoder's start, take a position each.
    assert max(len(read) for read, _ in sides) + 1 <= length
    assert max(len(written) for _, written in sides) + 1 <= length
    assert made.longest == 1 or made.longest >= length - 2


def test_texts_without_tokens_are_counted():
  made = {"train": [documents.Document("", text) for text in ("abc", "", "de")]}
  tokenizer = tokenizers.build(config.Tokenizer(kind="bytes", sentinels=3), ())
  data = config.Data(length=T, corrupt=SPANS)

  facts = pipeline.prepare(data, made, tokenizer, {}, MODEL).facts["splits"]["train"]

  assert facts["dropped"] == {"without_tokens": 1} and facts["kept"] == 2
  with pytest.raises(errors.UserError, match="no document of train has any token"):
    pipeline.prepare(data, {"train": made["train"][1:2]}, tokenizer, {}, MODEL)


def test_sentinels_are_refused_for_tokenizers_of_others(tmp_path):
  with pytest.raises(errors.UserError, match="keeps the tokens that it has"):
    tokenizers.build(config.Tokenizer(kind="file", path="x", sentinels=3), ())
  tokenizers.build(config.Tokenizer(kind="bytes", sentinels=3), ()).save(tmp_path / "t")
  path = tmp_path / "t" / "tokenizer_kind.json"
  path.write_text(path.read_text().replace("3", "-3"))
  with pytest.raises(errors.UserError, match="sentinels"):
    tokenizers.load(tmp_path / "t")


def test_the_sentinels_of_t5_are_found_in_their_order():
  class T5(dataclasses.make_dataclass("T5", ["special", "roles", "tokens"])):
    size = 110

  tokenizer = T5(special_tokens.extra_ids([f"<extra_id_{i}>" for i in range(9)], 100),
                 {"eos": 1, "pad": 0, "unk": 2}, ())

  found = noise.Noise(encoding.Encoding(
      config.Data(corrupt=SPANS), tokenizer, MODEL)).sentinels

  assert found == [*range(108, 99, -1)]
