"""The runs that a choice of a source compares: one a source, and from scratch."""

from collections.abc import Sequence
import dataclasses
import itertools
import os
import re

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.run import assemble
from transfer_gen.study import auto
from transfer_gen.study import from_run

Reader = assemble.reader.Reader
SCRATCH = "scratch"
_WORD = re.compile(r"[^\w.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
  """One run that is compared.

  Attributes:
    name: What it is called in the table, and its folder.
    path: Its source, with absolute paths.
    run: Its config.
    is_scratch: Whether it is a baseline, which reads no leaf of a source.
  """
  name: str
  path: str
  run: config_lib.Run
  is_scratch: bool = False


def of_run(run: config_lib.Run, paths: Sequence[str]) -> list[Contender]:
  """Returns a run for each source, and the baselines from scratch.

  A run with a model and a tokenizer of its own has one baseline, without any source.
  One that takes either from its source has a baseline for each, with that model and
  tokenizer.

  Args:
    run: The target. Its `source` may have fields, but no path.
    paths: Sources, as of `config.Source.path`.

  Raises:
    errors.UserError: If there are fewer than two sources, two equal ones, or one is
      set in the config.
  """
  _check(run, paths)
  taken = {SCRATCH}
  found = []
  for path in map(_absolute, paths):
    source = dataclasses.replace(run.source or config_lib.Source(), path=path)
    found.append(Contender(
        name=_name(path, taken), path=path,
        run=dataclasses.replace(run, source=source)))
  if not leaves_open(run):
    return [*found, Contender(
        name=SCRATCH, path="", run=from_run.alone(run), is_scratch=True)]
  return [*found, *(
      Contender(name=_name(f"{SCRATCH}_{one.name}", taken), path=one.path,
                run=from_run.scratch(one.run), is_scratch=True) for one in found)]


def leaves_open(run: config_lib.Run) -> bool:
  """Whether a run takes its model or its tokenizer from its source."""
  return "source" in (run.model, run.tokenizer.kind)


def assembled(
    contenders: Sequence[Contender], folder: os.PathLike[str], reader: Reader,
    steps: int = 0,
) -> dict[str, assemble.Assembled]:
  """Assembles all runs: sources can be read, and plans fit; writes nothing.

  Args:
    contenders: The runs.
    folder: Holds a folder for each of them. A tokenizer that is there is used again.
    reader: Reads their texts.
    steps: Number of steps that each is to train.

  Returns:
    The runs by name. If the strategy is `auto`, they have what all its candidates start
    as.

  Raises:
    errors.UserError: With everything that is wrong, by source.
  """
  found: dict[str, assemble.Assembled] = {}
  misfits: dict[str, str] = {}
  for one in contenders:
    workdir = os.path.join(folder, one.name)
    try:
      auto.check(one.run)
      found[one.name] = assemble.assemble(
          reader.read(auto.decided(one.run, workdir), workdir))
    except errors.UserError as error:
      misfits[one.name] = str(error)
    except OSError as error:
      misfits[one.name] = f"{error.filename or one.path}: {error.strerror or error}"
  _check_misfits(contenders, misfits)
  # Two paths may lead to one checkpoint: a study's folder, and its best run.
  _check_equal({one.name: _opened(found[one.name].sources[""])
                for one in contenders if not one.is_scratch})
  last = min(one.run.train.steps for one in found.values())
  if steps > last:
    raise errors.UserError(
        f"--steps is {steps}, and the run has train.steps={last}. Give at most these.")
  return found


def _opened(source):
  """The path of what was opened."""
  if isinstance(source, sources_lib.Pair):
    return "|".join(
        str(side.path) if side else "" for side in (source.encoder, source.decoder))
  return str(source.path)


# All at once, and before anything is measured. To go on without a source whose path was
# mistyped would choose among the others as if it had lost.
def _check_misfits(contenders, misfits):
  """Raises one error for all that is wrong."""
  if not misfits:
    return
  if len({*misfits.values()}) == 1 and len(misfits) == len(contenders):
    raise errors.UserError(next(iter(misfits.values())))  # It is the target's.
  # What is wrong with a source is wrong with its baseline as well.
  wrong = [one for one in contenders if one.name in misfits]
  shown = [one for one in wrong if not one.is_scratch] or wrong
  lines = ["  " + _with_name(one, misfits[one.name]).replace("\n", "\n    ")
           for one in shown]
  raise errors.UserError("\n".join([
      "These cannot be compared, and nothing was measured:", *lines,
      "Mend them, or leave them out of --sources."]))


def _with_name(contender, message):
  """A message that begins with the path of the source, or else with the run's name."""
  name = contender.path or contender.name
  return message if message.startswith(name) else f"{name}: {message}"


def _check(run: config_lib.Run, paths: Sequence[str]) -> None:
  named = [source.path or source.run or name
           for name, source in run.all_sources().items()
           if name or source.path or source.run]
  if named:
    raise errors.UserError(
        f"The config has a source already, {', '.join(map(repr, named))}, and `choose`"
        " sets source.path itself. Remove it, and give it as one of --sources.")
  if "" in paths:
    raise errors.UserError("--sources is empty. Give the path of a checkpoint.")
  if len(paths) < 2:
    raise errors.UserError(
        f"`choose` needs two --sources at least, and has {len(paths)}. To compare one"
        " source with scratch, use `study`.")
  _check_equal({path: path for path in paths}, len(paths))


def _check_equal(paths, count=0):
  """Refuses two paths of one checkpoint; `paths` are by what the message calls them."""
  where: dict[str, str] = {}
  for name, path in paths.items():
    real = "|".join(side if "://" in side else os.path.realpath(side)
                    for side in sources_lib.sides(path))
    if real in where:
      raise errors.UserError(
          f"--sources: {where[real]} and {name} are the same checkpoint, {path}. Give"
          " each once.")
    where[real] = name
  if count > len(paths):
    raise errors.UserError("--sources: a path is given twice. Give each once.")


def _absolute(path: str) -> str:
  """The path, so that a config that names it can be used from any folder."""
  return "|".join(side if "://" in side else os.path.abspath(side)
                  for side in sources_lib.sides(path))


def _name(path: str, taken: set[str]) -> str:
  """A name for a folder and a table that no other one has."""
  ends = [os.path.basename(side.rstrip("/")) for side in sources_lib.sides(path)]
  base = _WORD.sub("_", "+".join(ends)).strip("._") or "source"
  more = (f"{base}_{i}" for i in itertools.count(2))
  name = next(name for name in itertools.chain([base], more) if name not in taken)
  taken.add(name)
  return name
