"""Tests for flags that override fields of the runs of a study."""

import pytest

from transfer_gen import errors
from transfer_gen.commands import flags

STUDY = '''
from transfer_gen import config

RUN = config.Run()

def get_study():
  return config.Study(
      question="?", pairs=(("all", "b"), ("b.c", "b")),
      runs={"all": RUN, "b": RUN, "b.c": RUN})
'''


@pytest.fixture(name="parse")
def _parse(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "study.py").write_text(STUDY)
  return lambda *words: flags.parse(
      "study", ["--config=study.py", "--workdir=w", *words]).study


def test_flags_override_one_run_of_a_study_or_all_of_them(parse):
  study = parse(
      "--config.all.train.steps=7", "--config.runs.b.optim.lr=0.5",
      "--config.runs.b.c.train.steps=9", "--config.runs.all.source.path=w",
      "--noconfig.runs.b.c.data.merge_references")

  assert [run.train.steps for run in study.runs.values()] == [7, 7, 9]
  assert [run.optim.lr for run in study.runs.values()] == [1e-3, 0.5, 1e-3]
  assert study.runs["all"].source.path == "w" and study.runs["b"].source is None
  assert [run.data.merge_references for run in study.runs.values()] == [
      True, True, False]


@pytest.mark.parametrize("word, message", [
    ("--config.runs.d.train.steps=7", "begins with none of the runs all, b, b.c"),
    ("--config.runs.b.train.stepz=7", "run 'b': .*no field 'stepz'. Nearest: steps"),
    ("--config.all.train.steps=many", "run 'all': .*'many', must be a whole number"),
    ("--config.all.train.steps=-3", "steps is -3"),
    ("--config.samples=1", "only its runs can be overridden"),
])
def test_an_override_that_fits_no_run_of_a_study_is_refused(parse, word, message):
  with pytest.raises(errors.UserError, match=message):
    parse(word)


def test_two_runs_of_one_name_are_refused_with_their_line(parse, tmp_path):
  (tmp_path / "study.py").write_text(STUDY.replace('"b.c": RUN', '"b": RUN'))

  with pytest.raises(errors.UserError, match="study.py:9: 'b' stands twice in a dict"):
    parse()
