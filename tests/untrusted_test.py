"""Tests that only regular files of others are opened, and their JSON read one way."""

import ast
import os
import socket
import subprocess
import sys

from etils import epath
import numpy as np
import pytest

from tests import house
from transfer_gen import errors
from transfer_gen import lock
from transfer_gen import sealed
from transfer_gen import sources
from transfer_gen import untrusted
from transfer_gen.checkpoint import layout
from transfer_gen.data import files
from transfer_gen.data import tokenizer_kinds
from transfer_gen.data import tokenizers
from transfer_gen.formats import whole
from transfer_gen.run import records

# Modules that parse what they wrote themselves a moment before, or what processes that
# train one run tell each other.
_OWN_JSON = {"untrusted", "run.ownership", "data.tokenizer_kinds",
             "export.hugging_face_tokenizer", "checkpoint.digests", "processes",
             "run.plots"}


@pytest.fixture(name="pipe")
def _pipe(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  return tmp_path / "pipe"


def test_only_one_module_parses_json_of_others():
  users = {name for name, path in house.modules().items()
           for node in ast.walk(ast.parse(path.read_text()))
           if isinstance(node, ast.Attribute) and node.attr in ("loads", "load")
           and isinstance(node.value, ast.Name) and node.value.id == "json"}

  assert users == _OWN_JSON


def test_what_is_no_regular_file_is_refused_without_opening_it(tmp_path, pipe):
  listener = socket.socket(socket.AF_UNIX)
  listener.bind(str(tmp_path / "socket"))

  for path, kind in ((pipe, "pipe"), ("/dev/zero", "device"), (tmp_path, "folder"),
                     (tmp_path / "socket", "socket")):
    with pytest.raises(errors.UserError, match=f"it is a {kind}"):
      untrusted.opened(path)
  listener.close()


@pytest.mark.parametrize("name", [
    "model.safetensors", "model.bin", "model.npz", "model.h5", "words.vec", "words.txt",
    "model.safetensors.index.json"])
def test_a_pipe_in_place_of_a_checkpoint_is_refused_at_once(tmp_path, pipe, name):
  pipe.rename(tmp_path / name)

  for path in (tmp_path / name, tmp_path):
    with pytest.raises(errors.UserError, match=str(tmp_path)):
      sources.open(path)


def test_a_pipe_in_place_of_a_tokenizer_or_text_is_refused_at_once(tmp_path, pipe):
  with pytest.raises(errors.UserError, match="pipe"):
    files.text(str(pipe))
  for name in ("tokenizer.json", "spiece.model", "vocab.txt"):
    os.rename(pipe, tmp_path / name)
    pipe = tmp_path / name
    for path in (pipe, tmp_path):
      with pytest.raises(errors.UserError, match="pipe"):
        tokenizers.load(path)


def test_a_link_out_of_a_folder_is_not_followed(tmp_path):
  folder = epath.Path(tmp_path / "model")
  folder.mkdir()
  np.savez(tmp_path / "secret.npz", bias=np.zeros(3))
  (tmp_path / "secret.txt").write_text("[UNK]\na")
  os.symlink("../secret.npz", folder / "model.safetensors")
  os.symlink(tmp_path / "secret.txt", folder / "vocab.txt")

  for opened in (sources.leaves, sources.open, tokenizers.load):
    with pytest.raises(errors.UserError, match="leads out of its folder"):
      opened(folder)


def test_a_folder_in_a_folder_may_be_no_link_that_leads_out(tmp_path):
  sides = tokenizers.for_both_sides(
      tokenizer_kinds.Characters(["a"]), tokenizer_kinds.Characters(["b"]))
  folder = tmp_path / "run" / "tokenizer"
  sides.save(epath.Path(folder))
  assert tokenizers.of_run(epath.Path(folder.parent)).size == sides.size
  (folder / "inputs").rename(tmp_path / "elsewhere")
  (folder / "inputs").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "tokenizer").symlink_to(folder)
  (tmp_path / "steps").mkdir()
  (tmp_path / "steps" / "3").symlink_to(tmp_path / "elsewhere")

  for opened in (lambda: tokenizers.load(folder),
                 lambda: tokenizers.of_run(epath.Path(tmp_path / "other")),
                 lambda: layout.steps(epath.Path(tmp_path / "steps"))):
    with pytest.raises(errors.UserError, match="leads out of its folder"):
      opened()
  # One that stays in the folder is followed.
  (folder / "inputs").unlink()
  (tmp_path / "elsewhere").rename(folder / "moved")
  (folder / "inputs").symlink_to("moved")
  assert tokenizers.load(folder).size == sides.size


def test_what_a_pattern_finds_stays_in_its_folder_and_a_named_file_may_be_a_link(
    tmp_path):
  (tmp_path / "secret.txt").write_text("secret")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "b.txt").write_text("b")
  folder = tmp_path / "texts"
  folder.mkdir()
  (folder / "a.txt").write_text("a")
  (folder / "same.txt").symlink_to("a.txt")
  os.symlink(folder, tmp_path / "named")
  read = lambda name: [columns["text"] for _, columns in files.read(
      str(tmp_path / name), files.Options(), "train").examples]

  assert read("texts/*.txt") == read("named/*.txt") == ["a", "a"]
  (folder / "link.txt").symlink_to("../secret.txt")
  (folder / "inner").symlink_to("../out")

  assert read("texts/link.txt") == ["secret"] and read("texts/inner/b.txt") == ["b"]
  assert read("texts/inner/*.txt") == ["b"]
  assert read("t*/../secret.txt") == ["secret"]
  for pattern in ("texts/*.txt", "named/l*", "texts/*/b.txt", "texts/**/*.txt"):
    with pytest.raises(errors.UserError, match=(
        "data.train: .*leads out of its folder.*without a pattern")):
      read(pattern)


def test_patterns_find_what_the_hugging_face_cache_keeps(tmp_path):
  snapshot = tmp_path / "datasets--a" / "snapshots" / "01" / "data"
  snapshot.mkdir(parents=True)
  (tmp_path / "datasets--a" / "blobs").mkdir()
  (tmp_path / "datasets--a" / "blobs" / "ab").write_text("text")
  (snapshot / "a.txt").symlink_to("../../../blobs/ab")

  found = files.read(str(snapshot / "*.txt"), files.Options(), "train")

  assert [columns["text"] for _, columns in found.examples] == ["text"]


def test_links_of_the_hugging_face_cache_and_of_whole_folders_are_followed(tmp_path):
  repository = tmp_path / "models--a--b"
  snapshot = repository / "snapshots" / "0123"
  snapshot.mkdir(parents=True)
  (repository / "blobs").mkdir()
  (repository / "blobs" / "ab").write_text("[UNK]\na")
  os.symlink("../../blobs/ab", snapshot / "vocab.txt")
  os.symlink(snapshot, tmp_path / "link")

  assert tokenizers.load(snapshot).size == tokenizers.load(tmp_path / "link").size == 2
  # Another folder's blobs are not those of the repository.
  (tmp_path / "blobs").mkdir()
  (snapshot / "vocab.txt").unlink()
  (repository / "blobs" / "ab").rename(tmp_path / "blobs" / "ab")
  os.symlink("../../../blobs/ab", snapshot / "vocab.txt")
  with pytest.raises(errors.UserError, match="leads out of its folder"):
    tokenizers.load(snapshot)


@pytest.mark.parametrize("text, message", [
    ("[" * 100_000, "nested"), ("[" * 500 + "]" * 500, "nested"),
    ("9" * 6000, "not JSON"), ('{"a": 1, "a": 1}', "'a' stands there twice"),
    (b"\xff", "not UTF-8"), (r'"\ud83d"', "half of a character"),
    ("\ud83d", "not JSON"), ("", "not JSON"), ("{", "not JSON")])
def test_json_that_parsers_read_differently_is_refused(text, message):
  with pytest.raises(errors.UserError, match=message):
    untrusted.parse_json(text)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_where_a_file_must_be_finite(text):
  with pytest.raises(errors.UserError, match="no number"):
    untrusted.parse_json(text, finite=True)
  assert not np.isfinite(untrusted.parse_json(text))


def test_json_with_a_byte_order_mark_or_whole_pairs_of_escapes_is_read():
  assert untrusted.parse_json(b'\xef\xbb\xbf{"a": [1]}') == {"a": [1]}
  assert untrusted.parse_json(r'"\ud83d\ude00"') == "\U0001f600"


def test_more_text_than_the_memory_that_a_process_may_take_is_refused(tmp_path):
  (tmp_path / "a.txt").write_text("a line of text\n" * 2**17)
  program = f"""
import resource
from transfer_gen import errors, free_memory
from transfer_gen.data import files
before = free_memory.available()
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, taken + 2**26))
print(0 < free_memory.available() <= 2**26 < before)
try:
  files.read({str(tmp_path / "a.txt")!r}, files.Options(), "train")
except errors.UserError as error:
  print(error)
"""

  right, message = subprocess.run(
      [sys.executable, "-c", program], cwd=house.PACKAGE.parent, check=True,
      capture_output=True, text=True).stdout.splitlines()

  assert right == "True"
  assert "a.txt: 1,966,080 bytes in 131,072 parts take about 0.1 GiB" in message
  assert "0.1 GiB are free" in message


def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path):
  kept = tmp_path / "kept"
  kept.write_text("mine")
  folder = tmp_path / "run"
  folder.mkdir()
  for name in ("a.json.partial", "digests.json.partial", "x.lock", "samples.jsonl"):
    (folder / name).symlink_to(kept)
  os.mkfifo(folder / "b.json.partial")

  whole.write_json(folder / "a.json", {})
  whole.write_json(folder / "b.json", {})
  sealed.write(folder, "a.json")
  with lock.hold(epath.Path(folder / "x.lock"), "busy"):
    pass
  records.write_samples(folder, ["a"], ["b"])

  assert kept.read_text() == "mine"
  assert not (folder / "samples.jsonl").is_symlink()
  assert (folder / "b.json").read_text() == "{}\n"
