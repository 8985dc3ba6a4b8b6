"""Tests that large data, which lie in files, are read as data in memory are."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tracemalloc

from etils import epath
import numpy as np
import pytest

from tests import paths
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import row_shards
from transfer_gen.data import splitting
from transfer_gen.data import store
from transfer_gen.data import stored_rows
from transfer_gen.data import stored_texts
from transfer_gen.data import text_chunks
from transfer_gen.data import tokenizers
from transfer_gen.data.readers import blobs

TEXTS = config.Data(name="files", train="text.txt", unit="line", length=16)
PAIRS = config.Data(name="files", train="pairs.jsonl", input_field="a",
                    target_field="b", length=24, buckets=(12,))
ENCODER = config.EncoderDecoder(vocab_size=99, num_layers=1, width=8, num_heads=2)
NOISE = config.Corrupt(noise=("deletion",))
TOKENIZER = tokenizers.build(config.Tokenizer(kind="bytes"), ())


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
  """Makes texts that are large for chunks of 1,000 characters."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv(store.VARIABLE, str(tmp_path / "cache"))
  generator = np.random.default_rng(0)
  words = ["".join(generator.choice(list("abcdef"), size=generator.integers(1, 9)))
           for _ in range(400)]
  pathlib.Path("text.txt").write_text("\n".join(
      " ".join(words[i:i + 1 + i % 5]) for i in range(400)))
  pathlib.Path("more.txt").write_text("\n".join(words[:90]))
  pathlib.Path("pairs.jsonl").write_text("".join(
      json.dumps({"a": f"{i} {word}", "b": [word[::-1], word]}) + "\n"
      for i, word in enumerate(words)))
  pathlib.Path("test.jsonl").write_text("".join(
      json.dumps({"a": f"{i} {word}", "b": word}) + "\n"
      for i, word in enumerate(words[:30])))
  set_ = monkeypatch.setattr
  set_(text_chunks, "SIZE", 3000)
  set_(stored_rows, "_CHUNKS", 3)
  set_(row_shards, "_RECORD", 1000)
  set_(stored_texts, "LARGE", 0)


def _prepared(data, encoder=None, tokenizer=TOKENIZER):
  found, facts = documents.load(data)
  return found, pipeline.prepare(data, found, tokenizer, facts, encoder)


def _held(data, encoder=None):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stored_texts, "LARGE", 2**23)
    return _prepared(data, encoder)


def _learned(data, split):
  """Returns the targets of each document."""
  found = {}
  for batch in data.evaluation_batches(split, 7):
    for row in zip(*(batch[name] for name in ("documents", "targets"))):
      for document, target in zip(*row):
        found.setdefault(int(document), []).append(int(target))
  return {document: sorted(targets) for document, targets in found.items()
          if document >= 0}


@pytest.mark.parametrize("data, encoder", [
    (TEXTS, None), (PAIRS, None), (PAIRS, ENCODER),
    (dataclasses.replace(TEXTS, packing="joined"), None),
    (dataclasses.replace(TEXTS, train="text.txt*0.3 + more.txt*0.7"), None),
    (dataclasses.replace(TEXTS, fraction=0.3, max_validation=5), None),
    (dataclasses.replace(PAIRS, test="test.jsonl"), None),
    (dataclasses.replace(PAIRS, test="test.jsonl", validation="test.jsonl",
                         drop_empty=True, max_test=9), None)],
    ids=("texts", "pairs", "encoder", "joined", "mixture", "fraction", "test", "all"))
def test_documents_rows_and_facts_are_those_of_data_in_memory(data, encoder):
  if data.validation:  # Otherwise all of its documents are also in test.
    pathlib.Path("test.jsonl").write_text(
        pathlib.Path("test.jsonl").read_text() + '{"a": "x", "b": "y"}\n')
    pathlib.Path("other.jsonl").write_text('{"a": "u", "b": "v"}\n' * 3)
    data = dataclasses.replace(data, validation="other.jsonl")

  texts, stored = _prepared(data, encoder)
  held_texts, held = _held(data, encoder)

  assert all(isinstance(found, stored_texts.Texts) for found in texts.values())
  assert {split: list(found) for split, found in texts.items()} == dict(held_texts)
  assert stored.facts["fingerprint"] == held.facts["fingerprint"]
  for split in texts:
    mine, theirs = ({name: value for name, value in found.facts["splits"][split].items()
                     if name not in ("rows", "tokens")} for found in (stored, held))
    assert mine == theirs
    np.testing.assert_array_equal(
        stored.document_bytes(split), held.document_bytes(split))
    if data.packing == "separate":
      assert _learned(stored, split) == _learned(held, split)
  np.testing.assert_array_equal(stored.token_counts, held.token_counts)
  assert len(texts["train"].chunks) > 3 or data.fraction < 1


def test_rows_that_hold_one_document_are_bit_for_bit_those_in_memory():
  _, stored = _prepared(PAIRS, ENCODER)
  _, held = _held(PAIRS, ENCODER)

  mine, theirs = (found.train_batches(8, seed=3) for found in (stored, held))

  for _ in range(60):  # More than an epoch.
    batch, other = next(mine), next(theirs)
    assert batch.keys() == other.keys()
    for name, value in batch.items():
      np.testing.assert_array_equal(value, other[name])


@pytest.mark.parametrize("data, encoder", [
    (TEXTS, None), (dataclasses.replace(TEXTS, corrupt=NOISE), ENCODER)])
def test_a_position_continues_with_the_same_batches(data, encoder):
  _, stored = _prepared(data, encoder)
  batches = stored.train_batches(8, seed=1)
  for _ in range(40):
    next(batches)

  position = json.loads(json.dumps(batches.get_state()))
  expected = [next(batches) for _ in range(3)]
  again = _prepared(data, encoder)[1].train_batches(8, seed=1)
  first = next(again)
  again.set_state(position)

  for batch in expected:
    other = next(again)
    assert batch.keys() == other.keys() and "positions" in batch or encoder
    for name, value in batch.items():
      np.testing.assert_array_equal(value, other[name])
  assert (first["targets"] != batch["targets"]).any()


def test_processes_that_read_some_rows_read_the_batches_of_one():
  _, stored = _prepared(TEXTS)
  whole = stored.train_batches(8, seed=0)
  some = [stored.train_batches(8, 0, lambda size, part=part: slice(
      part * size // 2, (part + 1) * size // 2)) for part in range(2)]

  for _ in range(5):
    batch, parts = next(whole), [next(one) for one in some]
    for name, value in batch.items():
      np.testing.assert_array_equal(value, np.concatenate([p[name] for p in parts]))


def _written(*kinds):
  return {str(path): path.stat().st_mtime_ns for kind in kinds
          for path in pathlib.Path("cache", kind).rglob("*")
          if path.is_file() and path.name != "lock"}


def test_what_is_finished_is_not_made_again():
  _, first = _prepared(TEXTS)
  before = _written("texts", "rows")
  shard = sorted(pathlib.Path("cache/rows").rglob("000003_000006"))[0]
  lost = {path for path in before if path.startswith(str(shard))}
  shutil.rmtree(shard)
  [index] = pathlib.Path("cache/texts").rglob("index.json")
  index.unlink()
  (index.parent / "train_0_000001.json").unlink()
  shutil.copytree(shard.parent, shard.parent / "000003_000006.partial")  # Of a kill.

  _, again = _prepared(TEXTS)

  after = _written("texts", "rows")
  changed = {path for path in after if after[path] != before.get(path)}
  assert {path for path in changed if "/rows/" in path} == lost
  assert {pathlib.Path(path).name.split(".")[0] for path in changed
          if "/texts/" in path} == {"index", "train_0_000001", "seen_train"}
  for batch, other in zip(first.evaluation_batches("train", 9),
                          again.evaluation_batches("train", 9), strict=True):
    np.testing.assert_array_equal(batch["targets"], other["targets"])


def test_runs_share_a_folder_until_something_changes():
  _prepared(TEXTS)
  before = _written("texts", "rows")

  _prepared(TEXTS)
  pathlib.Path("copy.txt").write_bytes(pathlib.Path("text.txt").read_bytes())
  _prepared(dataclasses.replace(TEXTS, train="copy.txt"))

  assert _written("texts", "rows") == before
  folders = lambda kind: len(list(pathlib.Path("cache", kind).iterdir()))
  count = folders("rows")
  _prepared(dataclasses.replace(TEXTS, length=17))
  assert (folders("texts"), folders("rows")) == (1, count + 3)
  other = tokenizers.build(config.Tokenizer(kind="characters"), ["abcdef "])
  _prepared(TEXTS, tokenizer=other)
  assert (folders("texts"), folders("rows")) == (1, count + 6)
  pathlib.Path("text.txt").write_text(pathlib.Path("text.txt").read_text() + "a")
  _prepared(TEXTS)
  assert (folders("texts"), folders("rows")) == (2, count + 9)


@pytest.mark.parametrize("name, harm, message", [
    ("rows/*/*/16.array_record", lambda data: data[:-100],
     "bytes, and .* were written"),
    ("rows/*/*/16.array_record", lambda data: data[:200] + bytes(99) + data[299:],
     "cannot be read"),
    ("texts/*/*.train.json", lambda data: data[:-9], "not those that were written"),
    ("texts/*/*.train.json", lambda data: None, "it is missing")])
def test_a_damaged_file_of_the_cache_is_named(name, harm, message):
  _prepared(TEXTS)
  stored_texts._chunk.cache_clear()
  for path in pathlib.Path("cache").glob(name):
    data = harm(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)

  with pytest.raises(errors.UserError, match=f"cache/.*{message}.*Delete the folder"):
    found, data = _prepared(TEXTS)
    list(found["train"])
    for _ in data.evaluation_batches("train", 64):
      pass


@pytest.mark.parametrize("name, harm, message", [
    ("text.txt", b"\xff", "text.txt:401: invalid UTF-8"),
    ("pairs.jsonl", b"{a}\n", "pairs.jsonl:401: not JSON"),
    ("pairs.jsonl", b'{"b": "c"}\n', "pairs.jsonl:401: there is no column `a`")])
def test_a_bad_line_is_named(name, harm, message):
  with open(name, "ab") as file:
    file.write((b"\n" if name == "text.txt" else b"") + harm)

  with pytest.raises(errors.UserError, match=message):
    documents.load(TEXTS if name == "text.txt" else PAIRS)


def test_a_cache_that_is_no_local_folder_is_refused(monkeypatch):
  monkeypatch.setenv(store.VARIABLE, "gs://bucket/cache")

  with pytest.raises(errors.UserError, match="must be a local folder"):
    documents.load(TEXTS)


def test_what_needs_all_documents_is_held_in_memory():
  held = documents.load(dataclasses.replace(TEXTS, split="end"))[0]
  pathlib.Path("few.txt").write_text("\n".join("abc"[:1 + i % 3] for i in range(9)))
  few = documents.load(dataclasses.replace(TEXTS, train="few.txt"))[0]

  assert isinstance(held["train"], list) and isinstance(few["train"], list)


def test_a_long_text_without_units_becomes_blocks_and_pieces(monkeypatch):
  monkeypatch.setattr(blobs, "BLOCK", 700)
  text = "".join(f"line {i} of a play\n\n" for i in range(4000))
  pathlib.Path("play.txt").write_text(text)

  found, _ = documents.load(dataclasses.replace(TEXTS, train="play.txt", unit="auto"))

  assert max(len(one.target) for one in found["train"]) < 800
  lines = {line for split in found.values() for one in split
           for line in one.target.split("\n") if line}
  assert lines == set(text.split("\n")) - {""}


@pytest.mark.long
def test_several_processes_write_what_one_writes(monkeypatch, tmp_path):
  _, alone = _prepared(TEXTS)
  files = lambda root: {str(path.relative_to(root)): path.read_bytes()
                        for path in (root / "texts").rglob("*.json")}

  monkeypatch.setenv(store.VARIABLE, str(tmp_path / "second"))
  monkeypatch.setattr(store, "_TASKS", 1)
  _, shared = _prepared(TEXTS)

  first = files(tmp_path / "cache")
  assert len(first) > 30 and files(tmp_path / "second") == first
  assert list((tmp_path / "second/rows").rglob("*.array_record"))
  for batch, other in zip(alone.evaluation_batches("train", 9),
                          shared.evaluation_batches("train", 9), strict=True):
    for name, value in batch.items():
      np.testing.assert_array_equal(value, other[name])


def test_a_full_disk_is_one_message(tmp_path):
  program = """
import resource, sys
from transfer_gen import config, errors
from transfer_gen.data import documents, pipeline, row_shards, stored_texts, tokenizers
stored_texts.LARGE = 0
data = config.Data(name="files", train="text.txt", unit="line", length=16)
found, facts = documents.load(data)
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
tokenizer = tokenizers.build(config.Tokenizer(kind="bytes"), ())
try:
  pipeline.prepare(data, found, tokenizer, facts)
except errors.UserError as error:
  print(error)
"""
  printed = subprocess.run(
      [sys.executable, "-c", program], cwd=tmp_path, check=True, text=True,
      capture_output=True, env={"PYTHONPATH": str(paths.ROOT), "PATH": "",
                                store.VARIABLE: str(tmp_path / "cache")}).stdout

  assert "cannot be written: File too large" in printed and "Make room" in printed
  assert not list((tmp_path / "cache/rows").rglob("*.array_record"))


def test_lines_of_a_long_file_are_not_held(tmp_path):
  peaks = []
  for count in (2, 16):
    path = tmp_path / f"{count}.txt"
    path.write_text("a line of thirty characters..\n" * (count * 2**15))
    tracemalloc.start()
    assert sum(1 for _ in blobs.Blob(epath.Path(path)).lines(held=False)) == (
        count * 2**15)
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()

  assert peaks[1] < 1.2 * peaks[0] and peaks[0] > 2**20


def test_lines_are_those_of_the_whole_text(monkeypatch, tmp_path):
  text = "\ufeffa\r\nb\u2028c\n\n" + "d" * 100 + "\nm\u00fc\u4e2d\n" * 40 + "end"
  path = tmp_path / "text.txt"
  path.write_bytes(text.encode())
  blob = blobs.Blob(epath.Path(path))

  for size in (1, 7, 2**20):
    monkeypatch.setattr(blobs, "_AT_ONCE", size)
    assert "".join(blob.lines(held=True)) == blob.text() == text[1:]
    assert list(blob.lines(held=False)) == [
        f"{line}\n" for line in text[1:].split("\n")[:-1]] + ["end"]


@pytest.mark.parametrize("count", [1, 7, 50])
def test_the_last_document_drawn_bounds_those_that_are_drawn(count):
  found = [documents.Document("", f"text {i % 40}") for i in range(50)]

  last = splitting.last_drawn(
      lambda: (splitting.place(one, 3) for one in found), count)

  assert splitting.draw(found, count, 3) == [
      one for i, one in enumerate(found) if (splitting.place(one, 3), i) <= last]
