"""Tests for which documents a study shows samples of."""

import numpy as np

from transfer_gen.run import writing
from transfer_gen.study import samples

_LONG = "one two three four five six seven eight and the rest of"


def _documents(*targets):
  return [writing.Document(input="", target=target) for target in targets]


def test_documents_are_drawn_by_the_seed_each_text_once_and_none_blank():
  documents = _documents(*(f"{_LONG} {i % 20}" for i in range(40)), "", " \n ")
  every = np.arange(len(documents))

  drawn = [[one.target for one in samples.chosen(documents, every, 30, seed)]
           for seed in (0, 0, 1)]

  assert drawn[0] == drawn[1] != drawn[2]
  assert sorted(drawn[0]) == sorted({one.target for one in documents if one.target
                                     .strip()})
  assert drawn[0][:3] != [one.target for one in documents[:3]]


def test_runs_that_other_documents_fit_show_the_same_ones_as_far_as_they_can():
  documents = _documents(*(f"{_LONG} {i}" for i in range(9)))
  whole = samples.chosen(documents, np.arange(9), 4, 0)
  left = [i for i in range(9) if documents[i] is not whole[1]]

  part = samples.chosen(documents, np.array(left), 4, 0)

  assert part[:3] == [whole[0], *whole[2:]]


def test_texts_that_leave_nothing_to_write_come_last():
  documents = _documents(*(["too short"] + [f"{_LONG} {i}" for i in range(3)]))

  for seed in range(5):
    assert samples.chosen(documents, np.arange(4), 4, seed)[3] is documents[0]


def test_a_short_text_is_cut_in_its_middle_so_that_something_is_left_to_write():
  names, long = _documents("kynsleigh", "a", ""), _documents(f"{_LONG} it")

  assert [samples._prompt(one, False) for one in names] == [
      ("kynsl", ("eigh",)), ("a", ()), ("", ())]
  # From right to left, what is written stands before what is given.
  assert samples._prompt(names[0], True) == ("leigh", ("kyns",))
  for reverse in (False, True):
    assert samples._prompt(long[0], reverse) == writing.prompt(long[0], reverse)
