"""Tests that a reader reads each data set once and returns what `load` returns."""

import dataclasses

import pytest

from tests import counting
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.run import reader as reader_lib


@pytest.fixture
def data(tmp_path):
  """Writes a data set with 40 training lines."""
  files = {"train": 40, "validation": 5, "test": 5}
  for split, count in files.items():
    (tmp_path / f"{split}.txt").write_text(
        "".join(f"{split[:5]} line {i}\n" for i in range(count)))
  return config.Data(
      name="files", **{split: str(tmp_path / f"{split}.txt") for split in files})


def test_several_fractions_of_a_data_set_are_read_once(data):
  fractions = [dataclasses.replace(data, fraction=part) for part in (0.1, 0.5, 1.0)]
  reader = reader_lib.Reader()

  with counting.calls((documents, "read_filtered")) as counts:
    found = [reader.texts(part) for part in fractions * 2]

  assert counts == {"read_filtered": 1}
  assert found[:3] == [documents.load(part) for part in fractions]
  assert [len(texts["train"]) for texts, _ in found[:3]] == [4, 20, 40]


def test_data_sets_with_different_filters_are_read_separately(data):
  others = [data, dataclasses.replace(data, max_chars=12),
            dataclasses.replace(data, normalize="NFKC")]
  reader = reader_lib.Reader()

  with counting.calls((documents, "read_filtered")) as counts:
    found = [reader.texts(other) for other in others]

  assert counts == {"read_filtered": 3}
  assert found == [documents.load(other) for other in others]
  assert len(found[1][0]["train"]) == 10


def test_a_fraction_out_of_range_is_refused_for_files_already_read(data):
  reader = reader_lib.Reader()
  reader.texts(data)

  with pytest.raises(errors.UserError, match="fraction"):
    reader.texts(dataclasses.replace(data, fraction=1.5))
