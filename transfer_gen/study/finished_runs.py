"""Runs that have trained, opened to be compared without a study."""

from collections.abc import Iterator, Sequence
import os

from etils import epath

from transfer_gen import best_link
from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.run import best as best_lib
from transfer_gen.run import records
from transfer_gen.study import jobs as jobs_lib


def open(words: Sequence[str]) -> list[jobs_lib.Job]:
  """Opens runs by their workdirs.

  Args:
    words: Workdirs, at least two; or NAME=DIR, which gives one a name. Without it, a
      run is called as its folder is. That of a study or a search means its best run.

  Raises:
    errors.UserError: If there are fewer, two have one name or are the same run, or one
      has not trained to its end; names all of them.
  """
  if len(words) < 2:
    raise errors.UserError(
        "compare needs two runs at least. Give their workdirs: compare DIR DIR"
        " --output=DIR.")
  named, jobs = [*map(named_folder, words)], []
  misfits = [*twice(named)]
  for name, given in named:
    try:
      jobs.append(_job(name, given))
    except errors.UserError as error:
      misfits.append(str(error))
  if misfits:
    raise errors.UserError("\n  ".join([
        "runs that cannot be compared:", *dict.fromkeys(misfits)]))
  return jobs


def named_folder(word: str) -> tuple[str, str]:
  """Returns the name and the workdir that a word gives."""
  name, equals, path = word.partition("=")
  # A folder whose own name holds the sign is that folder.
  if equals and name and "/" not in name and not epath.Path(word).exists():
    return name, path
  folder = epath.Path(word)
  # That of ".", say, is none.
  own = folder.name if "://" in word else os.path.basename(os.path.abspath(word))
  return own or word, word


def twice(named: Sequence[tuple[str, str]]) -> Iterator[str]:
  """Yields what is wrong with folders that have one name or are the same.

  Args:
    named: Names and folders, in the order in which they are given.
  """
  for i, (name, path) in enumerate(named):
    for other, earlier in named[:i]:
      if _place(path) == _place(earlier):
        yield f"{path}: it is given twice. Give each once."
      elif name == other:
        yield (f"{earlier} and {path} are both called {name!r}. Give one of them"
               f" another name: NAME={path}.")


def _place(path: str) -> str:
  workdir = str(best_link.follow(epath.Path(path)))
  return workdir.rstrip("/") if "://" in workdir else os.path.realpath(workdir)


def _job(name: str, given: str) -> jobs_lib.Job:
  workdir = best_link.follow(epath.Path(given))
  if not workdir.exists():
    raise errors.UserError(f"{given}: there is no such folder.")
  run = codec.read_run(workdir)
  lines = [line for line in records.read_metrics(workdir)
           if line["split"] == "validation"]
  if not lines:
    raise errors.UserError(
        f"{given}: the run has not been validated yet. Train it to its end.")
  # As the training itself decides whether it goes on.
  best = best_lib.begin(run.train.metric)
  for line in lines:
    best.judge(line["step"], line)
  if lines[-1]["step"] < run.train.steps and not 0 < run.train.patience <= best.stale:
    raise errors.UserError(
        f"{given}: the run is not finished: validated up to step {lines[-1]['step']} of"
        f" {run.train.steps}. Train it to its end with the command that began it.")
  return jobs_lib.Job(
      name=name, seed=run.seed, lr=run.optim.lr, workdir=workdir, run=run)
