"""Tests that the folder of a study or a search stands for its best run."""

import shutil

import pytest

from tests import small_runs
from tests.commands import cli
from transfer_gen import best_link
from transfer_gen.run import loop

GENERATE = ("generate", "--prompt=line 3", "--max_tokens=4")


@pytest.fixture(scope="module", name="trained")
def _trained(tmp_path_factory):
  """Trains a run of two steps, which the tests copy."""
  folder = tmp_path_factory.mktemp("best")
  small_runs.write_lines(folder / "text.txt")
  loop.train(small_runs.configure(
      folder / "text.txt", small_runs.DECODER, steps=2, checkpoint_every=1),
      folder / "run")
  return folder / "run"


@pytest.fixture(name="runs")
def _runs(trained, tmp_path, monkeypatch):
  """Makes `study/one`, and `study/two/seed_0`, which has one step less."""
  monkeypatch.chdir(tmp_path)
  for name in ("one", "two/seed_0"):
    shutil.copytree(trained, tmp_path / "study" / name)
  shutil.rmtree("study/two/seed_0/checkpoints/2")
  shutil.rmtree("study/two/seed_0/checkpoints/best")
  return tmp_path / "study"


def test_commands_take_the_run_that_the_link_names(runs, capsys):
  best_link.write(runs, runs / "two" / "seed_0")
  cli.main.run(["transfer-gen", *GENERATE, "--workdir=study"])
  printed = capsys.readouterr()

  evaluated = cli.run(capsys, "evaluate", "--workdir=study")
  cli.run(capsys, "convert", "--source=study", "--to=safetensors", "--output=hf")

  assert printed.err == "study: its best run, study/two/seed_0\n"
  assert printed.out == cli.run(capsys, *GENERATE, "--workdir=study/two/seed_0")
  assert "\nstudy/two/seed_0: test, step 1\n" in evaluated
  assert (runs / "two" / "seed_0" / "scores_test.json").exists()
  assert (runs.parent / "hf" / "model.safetensors").exists()
  assert not (runs / "samples.jsonl").exists()


def test_a_text_file_serves_where_links_are_not_possible(runs, capsys, monkeypatch):
  def refuse(*args):
    raise OSError("no links here")
  monkeypatch.setattr(best_link.os, "symlink", refuse)

  best_link.write(runs, runs / "two" / "seed_0")
  evaluated = cli.run(capsys, "evaluate", "--workdir=study")

  assert (runs / "best").read_text() == "two/seed_0\n"
  assert "\nstudy/two/seed_0: test, step 1\n" in evaluated


def test_a_later_link_replaces_the_first_and_moves_with_its_folder(runs):
  best_link.write(runs, runs / "one")
  best_link.write(runs, runs / "two" / "seed_0")
  moved = runs.rename(runs.parent / "moved")

  assert best_link.follow(moved) == moved / "two" / "seed_0"
  assert sorted(path.name for path in moved.iterdir()) == ["best", "one", "two"]


@pytest.mark.parametrize("command", [
    (*GENERATE, "--workdir=study"), ("evaluate", "--workdir=study"),
    ("convert", "--source=study", "--output=out")])
def test_several_runs_without_a_best_one_are_listed(runs, capsys, command):
  message = cli.refused(capsys, *command)

  assert "study: holds no checkpoint. Give one of the runs in it: one, two/seed_0." in (
      message)


def test_a_link_to_a_run_that_is_gone_lists_those_that_are_there(runs, capsys):
  best_link.write(runs, runs / "one")
  shutil.rmtree(runs / "one")

  message = cli.refused(capsys, "evaluate", "--workdir=study")

  assert "Give one of the runs in it: two/seed_0." in message


@pytest.mark.parametrize("make", [
    lambda best: best.mkdir(),
    lambda best: best.write_text("Kim\n"),  # No run, though it looks like a path.
    lambda best: best.write_text("one is the best\nby far\n"),
    lambda best: best.write_bytes(b"\xff"),
    lambda best: best.write_text(""),
    lambda best: best.symlink_to("../elsewhere"),
])
def test_what_else_has_the_place_of_the_link_is_refused_and_kept(runs, make):
  best = runs / "best"
  make(best)
  before = best.lstat()

  with pytest.raises(ValueError, match="best: is no link to a run below .* Rename it"):
    best_link.write(runs, runs / "one")

  assert best.lstat() == before


@pytest.mark.parametrize("make", [
    lambda best: best.symlink_to("one/seed_0"), lambda best: best.symlink_to(".."),
    lambda best: best.write_text("one/seed_0\n"), lambda best: best.write_text("..")])
def test_a_link_of_ours_is_replaced_even_if_its_run_is_gone(runs, make):
  make(runs / "best")

  best_link.write(runs, runs / "two" / "seed_0")

  assert best_link.follow(runs) == runs / "two" / "seed_0"


@pytest.mark.parametrize("target", [
    "../elsewhere", "{}/elsewhere", "one/../../elsewhere"])
@pytest.mark.parametrize("link", [True, False])
def test_best_never_leads_out_of_its_folder(tmp_path, target, link):
  for name in ("study/one", "elsewhere/checkpoints"):
    (tmp_path / name).mkdir(parents=True)
  target = target.format(tmp_path)
  if link:
    (tmp_path / "study" / "best").symlink_to(target)
  else:
    (tmp_path / "study" / "best").write_text(target)

  assert best_link.follow(tmp_path / "study") == tmp_path / "study"


def test_a_file_best_that_names_no_run_is_passed_over(tmp_path):
  for content in (b"", b"\xff\xfe\0", b"no such run\n", b"x" * 10**5):
    (tmp_path / "best").write_bytes(content)
    assert best_link.follow(tmp_path) == tmp_path
