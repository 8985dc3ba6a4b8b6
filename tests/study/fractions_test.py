"""Tests for studies over several shares of the training data."""

import dataclasses
import json

import pytest

from tests import small_runs
from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.study import dry_run
from transfer_gen.study import fractions
from transfer_gen.study import jobs
from transfer_gen.study import study

FILE = """
from tests import small_runs
from transfer_gen import config

def get_study():
  run = lambda **fields: small_runs.configure(
      "a.txt", small_runs.RNN, steps=2, lr=0.02, **fields)
  return config.Study(
      question="?", runs={"first": run(), "scratch": run(),
                          "moved": run(source=config.Source(run="first"))},
      pairs=(("moved", "scratch"),), samples=0)
"""


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("fractions")
  small_runs.write_lines(folder / "a.txt")
  (folder / "s.py").write_text(FILE)
  return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch):
  monkeypatch.chdir(folder)


def _study(**changes):
  run = small_runs.configure("a.txt", small_runs.RNN, steps=2, lr=0.02)
  moved = dataclasses.replace(run, source=config.Source(run="first"))
  return config.Study(**{
      "question": "?", "runs": {"first": run, "moved": moved, "scratch": run},
      "pairs": (("moved", "scratch"),), "fractions": (0.1, 1.0, 0.3), "samples": 0,
      **changes})


def test_each_run_and_pair_is_repeated_with_each_share_the_largest_first():
  asked = _study()
  asked.runs["scratch"] = dataclasses.replace(
      asked.runs["scratch"], data=dataclasses.replace(
          asked.runs["scratch"].data, fraction=0.7))

  found = fractions.expand(asked)

  assert {name: run.data.fraction for name, run in found.runs.items()} == {
      "first": 1.0, "moved_10": 0.1, "moved_30": 0.3, "moved_100": 1.0,
      "scratch_10": 0.07, "scratch_30": 0.21, "scratch_100": 0.7}
  assert found.pairs == (("moved_100", "scratch_100"), ("moved_30", "scratch_30"),
                         ("moved_10", "scratch_10"))
  assert found.fractions == () and fractions.expand(found) is found
  assert found.runs["moved_10"].source == config.Source(run="first")
  assert asked.runs["moved"].data.fraction == 1.0  # Not changed.
  assert len({id(run.train) for run in found.runs.values()}) == 7  # Nothing shared.


def test_names_tell_small_and_broken_shares_apart():
  found = fractions.expand(_study(fractions=(0.005, 0.07, 1 / 3, 0.07)))

  assert [one for one, _ in found.pairs] == ["moved_33.3333", "moved_7", "moved_0.5"]


@pytest.mark.long
def test_a_study_of_shares_trains_on_them_and_has_the_effective_data(folder):
  done = study.run(_study(), "w")
  shown = dry_run.describe(_study(), "w", "scratch_10")

  counts = {share: json.loads((
      folder / "w" / f"scratch_{share}" / "seed_0" / "lr_0.02" / "data.json"
  ).read_text())["splits"]["train"]["kept"] for share in (10, 30, 100)}
  assert counts[100] > 70
  assert counts[30] == -(-counts[100] * 3 // 10)  # Rounded up.
  assert counts[10] == -(-counts[100] // 10)
  assert [(one["treated"], one["control"]) for one in done["comparisons"]] == [
      ("moved_100", "scratch_100"), ("moved_30", "scratch_30"),
      ("moved_10", "scratch_10")]
  assert done["notes"] == []  # The runs of a pair have the same texts.
  assert done["summary"]["best"].split("/")[0] in ("moved_100", "scratch_100")
  for one in done["comparisons"]:  # Pairs of equal shares are enough.
    assert one["effective_data"]["controls"] == [
        "scratch_10", "scratch_30", "scratch_100"]
  assert shown.splitlines()[1].split()[0] == "scratch_10"


def test_the_flag_only_and_overrides_know_shares(folder, capsys):
  words = ("study", "--config=s.py", "--workdir=v", "--dry_run")
  shares = "--fractions=0.1,1"

  assert "The runs are first, moved_100, scratch_100, moved_10, scratch_10." in (
      cli.refused(capsys, *words, shares, "--only=moved"))
  changed = cli.refused(capsys, *words, shares, "--config.runs.moved.train.steps=3")
  for share in (10, 100):  # A run's override holds for all its shares.
    assert f"'moved_{share}' and 'scratch_{share}': train.steps is 3 and 2" in changed
  assert "fractions[1] is '1;2', must be" in cli.refused(
      capsys, *words, "--fractions=0.1,1;2")
  assert "fractions[1] is 2.0, must be" in cli.refused(
      capsys, *words, "--fractions=0.1,2")
  assert not (folder / "v").exists()


@pytest.mark.parametrize("changes, message", [
    ({"fractions": (0.1, 0.0)}, r"fractions\[1\] is 0.0, must be"),
    ({"fractions": (0.001, 1.0)}, "(?s)_0.1'.*less than one of them. Give at least"),
    ({"pairs": (("moved", "none"),)}, "pairs name none, not among the runs first, m"),
    ({"pairs": (("moved", "first"),)}, "source.run is 'first', which a pair compares"),
])
def test_what_is_wrong_is_said_of_the_runs_that_a_user_wrote(folder, changes, message):
  for call in (study.run, dry_run.describe):
    with pytest.raises(errors.UserError, match=message):
      call(_study(**changes), "u")
  assert not (folder / "u").exists()


def test_a_name_that_a_share_would_get_is_refused():
  asked = _study()
  asked.runs["moved_10"] = asked.runs.pop("first")  # A source, which stays as it is.
  asked.runs["moved"].source = config.Source(run="moved_10")

  with pytest.raises(errors.UserError, match="'moved_10' has the name that 'moved' w"):
    jobs.expanded(asked)
