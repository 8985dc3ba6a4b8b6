"""Tests for the data sets made from Python's documentation, and for TFDS data sets."""

import json
import os
import pathlib
import re
import struct
import subprocess
import sys

import pytest

from tests import paths
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import catalog
from transfer_gen.data import documents

SCRIPT = """
import sys
from tests import paths
from transfer_gen import config
from transfer_gen.data import documents
for name, fields in (("python_docs", {}), ("docstring_summary", {
    "input_field": "body", "target_field": "summary"})):
  print(documents.load(config.Data(name=name, **fields))[1]["fingerprint"])
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""
PAIRS = {"input_field": "body", "target_field": "summary"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Prepares a data folder in two processes at once; returns it and their outputs."""
  folder = tmp_path_factory.mktemp("tfds")
  kept = tmp_path_factory.mktemp("kept") / "kept"
  kept.write_text("mine")
  (folder / ".python_docs.lock").symlink_to(kept)
  processes = [
      subprocess.Popen(
          [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True,
          env=os.environ | {"TFDS_DATA_DIR": str(folder)})
      for _ in range(2)]
  printed = [process.communicate()[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  # Nothing was written through the link, and no lock is left.
  assert kept.read_text() == "mine" and not list(folder.glob(".*.lock"))
  return folder, printed


@pytest.fixture(scope="module")
def data(prepared):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TFDS_DATA_DIR", str(prepared[0]))
    return {
        "python_docs": documents.load(config.Data(name="python_docs")),
        "docstring_summary": documents.load(
            config.Data(name="docstring_summary", **PAIRS))}


def collapse_spaces(text):
  return re.sub(r"\s+", " ", text).strip()


def test_preparing_in_two_processes_at_once_gives_the_same_data(prepared, data):
  _, printed = prepared

  assert printed[0] == printed[1]
  assert printed[0].split() == [facts["fingerprint"] for _, facts in data.values()]


def test_data_sets_have_the_documented_sizes(data):
  prose = data["python_docs"][1]["splits"].values()
  pairs = data["docstring_summary"][1]["splits"].values()

  # Other versions of Python have more or fewer modules; 3.11.7 has 1.92 MB, 2211.
  assert 1.5e6 < sum(counts["chars"] for counts in prose) < 2.5e6
  assert 1700 < sum(counts["kept"] for counts in pairs) < 2700
  for counts in (*prose, *pairs):
    assert not counts["dropped"]  # The builders leave nothing to drop.


def test_a_data_set_version_contains_the_python_version(data):
  minor = f"{sys.version_info.major}{sys.version_info.minor:02d}"

  for _, facts in data.values():
    assert facts["version"] == f"1.{minor}.{sys.version_info.micro}"


def test_the_source_data_contain_no_held_out_text(data):
  prose, pairs = data["python_docs"][0], data["docstring_summary"][0]
  source = "\n".join(
      collapse_spaces(document.target)
      for found in prose.values() for document in found)

  for document in (*pairs["validation"], *pairs["test"]):
    assert collapse_spaces(document.input) not in source
    if len(document.target) > 30:
      assert collapse_spaces(document.target) not in source

  # The comparison works: texts that the model may learn from are found there.
  found = sum(collapse_spaces(document.input) in source for document in pairs["train"])
  assert found > 0.8 * len(pairs["train"])


def test_the_source_data_contain_the_help_topics(data):
  prose = data["python_docs"][0]

  assert any(
      'The "while" statement is used for repeated execution'
      in collapse_spaces(document.target)
      for found in prose.values() for document in found)


@pytest.mark.parametrize("name", ["python_docs", "docstring_summary"])
def test_no_text_is_in_two_splits(data, name):
  splits = data[name][0]
  texts = {
      split: {collapse_spaces(text) for document in found
              for text in (document.input, document.target) if text}
      for split, found in splits.items()}

  assert not texts["train"] & (texts["validation"] | texts["test"])
  assert not texts["validation"] & texts["test"]


def test_both_data_sets_assign_a_text_to_the_same_split(data):
  prose, pairs = data["python_docs"][0], data["docstring_summary"][0]
  held_out = {collapse_spaces(document.target)
              for split in ("validation", "test") for document in prose[split]}

  for document in pairs["train"]:
    assert collapse_spaces(f"{document.target} {document.input}") not in held_out

def rewrite_as_tfrecord(folder):
  """Converts an array_record data set to the tfrecord files that TensorFlow writes."""
  import tensorflow_datasets as tfds
  builder = tfds.builder_from_directory(folder)
  for split in builder.info.splits:
    examples = [
        builder.info.features.serialize_example(example)
        for example in builder.as_data_source(split)]
    (path,) = folder.glob(f"*-{split}.*")
    path.unlink()
    with open(str(path).replace("array_record", "tfrecord"), "wb") as file:
      for example in examples:
        # A record is its length, a checksum of that, the data, and their checksum. The
        # reader does not verify checksums, so zeros serve.
        file.write(struct.pack("<QI", len(example), 0) + example + bytes(4))
  info = folder / "dataset_info.json"
  description = json.loads(info.read_text())
  description["fileFormat"] = "tfrecord"
  info.write_text(json.dumps(description))


@pytest.fixture
def foreign(tmp_path, monkeypatch):
  """Prepares a data set with unusual split names, and leaves only its folder."""
  import tensorflow_datasets as tfds

  class ForeignSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("2.0.1")

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
          {"de": tfds.features.Text(), "en": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
      return {
          split: iter([(i, {"de": f"{split} {i} ü", "en": f"{i}"}) for i in range(n)])
          for split, n in {"train": 5, "valid": 3, "test": 2, "extra": 1}.items()}

    def _generate_examples(self):
      raise NotImplementedError

  ForeignSet(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  return tmp_path / "foreign_set" / "2.0.1"


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_prepared_data_set_is_read_without_its_builder_code(foreign, file_format):
  if file_format == "tfrecord":
    rewrite_as_tfrecord(foreign)

  found, facts = documents.load(config.Data(
      name="tfds:foreign_set", input_field="en", target_field="de"))

  assert facts["version"] == "2.0.1"
  assert {split: sorted((document.input, document.target) for document in texts)
          for split, texts in found.items()} == {
              split: [(f"{i}", f"{name} {i} ü") for i in range(n)]
              for split, name, n in (
                  ("train", "train", 5), ("validation", "valid", 3),
                  ("test", "test", 2))}


def test_translations_and_summaries_of_tfds_are_pairs(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds
  kinds = tfds.features

  class Translations(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict({
          "translation": kinds.Translation(languages=["de", "en"]),
          "talk": kinds.TranslationVariableLanguages(languages=["de", "en", "fr"]),
          "article": kinds.Text(), "highlights": kinds.Sequence(kinds.Text())}))

    def _split_generators(self, dl_manager):
      return {split: iter([(0, {
          "translation": {"de": f"ü {split}", "en": f"u {split}"},
          "talk": {"de": [f"eins {split}", f"zwei {split}"], "en": f"one {split}"},
          "article": f"long {split}", "highlights": [f"a {split}", f"b {split}"]})])
              for split in ("train", "validation", "test")}

    def _generate_examples(self):
      raise NotImplementedError

  Translations(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))

  for source, target, want in (
      ("translation.en", "translation.de", ("u test", "ü test", ())),
      ("talk.en", "talk.de", ("one test", "eins test", ("zwei test",))),
      ("article", "highlights", ("long test", "a test", ("b test",)))):
    found, _ = documents.load(config.Data(
        name="tfds:translations", input_field=source, target_field=target))
    assert found["test"] == [documents.Document(*want)]


def test_an_unknown_data_set_is_refused_with_advice(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))

  with pytest.raises(errors.UserError, match="knows no such data set.*TFDS_DATA_DIR"):
    catalog.read("tfds:nobody_has_this")


def test_a_failed_download_is_reported_with_advice(
    tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise OSError("no network")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  monkeypatch.setattr("urllib.request.getproxies", dict)
  monkeypatch.setattr("socket.getaddrinfo", fail)

  with pytest.raises(errors.UserError) as caught:
    catalog.read("tfds:ag_news_subset")

  assert "tfds build ag_news_subset --file_format=array_record" in str(caught.value)
  assert "cannot be reached" in str(caught.value)
  assert not list(pathlib.Path(tmp_path).rglob("*.array_record*"))


def test_an_unwritable_data_folder_is_named_in_the_error(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("in the way")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))

  with pytest.raises(errors.UserError, match="file.*Set TFDS_DATA_DIR"):
    catalog.read("python_docs")


def test_no_warning_of_tfds_reaches_the_user(foreign, tmp_path):
  """Both kinds that it writes: of a folder that is no data set, of a config of ours."""
  (foreign.parent / "half_copied" / "2.0.1").mkdir(parents=True)
  program = f"""
import numpy as np
from etils import epath
from transfer_gen.data import catalog
from transfer_gen.data.datasets import hidden_states
print(*catalog.read("tfds:foreign_set")[0])
folder = epath.Path({str(tmp_path / "hidden")!r})
hidden_states.HiddenStates("part_0", {{"hidden": (2, 3)}}, np.dtype("float32"), folder)
"""

  done = subprocess.run(
      [sys.executable, "-c", program], cwd=paths.ROOT, capture_output=True, text=True,
      check=True)

  assert done.stdout.split() == ["train", "validation", "test"]
  assert "absl" not in done.stderr and "WARNING" not in done.stderr
