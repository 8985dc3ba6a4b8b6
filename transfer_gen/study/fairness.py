"""Whether the runs of a pair can be compared: same texts and same budget."""

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.run import assemble
from transfer_gen.study import budgets as budgets_lib

# Fields of `Train` that are the budget of a run.
_BUDGET = ("steps", "batch_size", "batch_tokens")
# Fields of `Data` that leave the documents as they are, and make rows of them.
_ROWS = ("length", "too_long", "packing", "template", "buckets", "corrupt")
# Fields in which a pair may differ, if the report says so.
_NOTED = ("fraction", "input_field", *_ROWS)


def check(
    study: config_lib.Study, runs: Mapping[str, assemble.Assembled],
    reader: assemble.reader.Reader) -> None:
  """Refuses pairs whose difference would not be that of the treatment alone.

  All runs of a pair have the same seeds and the same learning rates by construction,
  save what searches a rate itself.

  Args:
    study: The study.
    runs: Its runs, assembled, by name.
    reader: Has read their texts.

  Raises:
    errors.UserError: If the runs of a pair are tested on other documents, train on
      other texts or in other shares of a mixture, or for other numbers of steps or on
      other batches; names all such pairs, what differs, and what would make them fair.
      Also if a run has the name that a longer control would get.
  """
  budgets_lib.check(study)
  unfair = [
      f"{treated!r} and {control!r}: {cause}" for treated, control in study.pairs
      for cause in _causes(study, runs[treated], runs[control], reader)]
  if unfair:
    raise errors.UserError("\n  ".join([
        "pairs that cannot be compared fairly:", *dict.fromkeys(unfair)]))


def notes(
    study: config_lib.Study, runs: Mapping[str, assemble.Assembled]) -> list[str]:
  """Returns, for people, what else but the source differs between the runs of pairs.

  Some studies ask for that: effective data need controls on other amounts of data.

  Args:
    study: A study that `check` lets pass.
    runs: As of `check`.
  """
  found = []
  for treated, control in dict.fromkeys(study.pairs):
    mine, theirs = runs[treated].run.data, runs[control].run.data
    differ = [f"data.{name} is {getattr(mine, name)!r} and {getattr(theirs, name)!r}"
              for name in _differing(mine, theirs) if name in _NOTED]
    if differ:
      found.append(f"{treated} and {control}: {', '.join(differ)}, so the gain is not"
                   " that of the source alone")
  return found


def budgets(treated: config_lib.Run, control: config_lib.Run) -> Iterator[str]:
  """Yields a sentence for each part of the budget in which two runs differ."""
  for name in _BUDGET:
    mine, theirs = (run.value("train", name) for run in (treated, control))
    if mine != theirs:
      yield f"train.{name} is {mine} and {theirs}."


def documents(
    treated: config_lib.Run, control: config_lib.Run, reader: assemble.reader.Reader
) -> Iterator[str]:
  """Yields what is wrong if two runs are tested on other documents, and the remedy."""
  # Whether it is a pair or a text, the target is what a loss is measured on.
  mine, theirs = (
      [document.target for document in reader.texts(run.data)[0]["test"]]
      for run in (treated, control))
  if mine != theirs:
    yield (f"they are tested on other documents, {_difference(mine, theirs)}. Give both"
           " the same test texts"
           f"{_fields(treated.data, control.data, ('fraction', *_ROWS))}.")


def training(
    treated: config_lib.Run, control: config_lib.Run, reader: assemble.reader.Reader
) -> Iterator[str]:
  """Yields what is wrong if two runs learn from other texts, and the remedy.

  One of them may read a smaller fraction of the same texts. If one has no inputs, as
  a language model, targets decide.
  """
  mine, theirs = treated.data, control.data
  if mine == theirs:
    return
  fields = _fields(mine, theirs, _NOTED)
  (texts, facts), (others, other_facts) = (
      reader.texts(dataclasses.replace(data, fraction=1.0)) for data in (mine, theirs))
  have_inputs = bool(mine.input_field) == bool(theirs.input_field)
  one, other = ([(text.input * have_inputs, text.target) for text in some["train"]]
                for some in (texts, others))
  if one != other:
    yield (f"they train on other texts, {_difference(one, other)}. Give both the same"
           f" training texts{fields}.")
  elif facts["shares"] != other_facts["shares"] or [
      text.part for text in texts["train"]] != [text.part for text in others["train"]]:
    yield ("they train on other shares of a mixture. Give both the same shares"
           f"{fields}.")
  elif mine.seed != theirs.seed and min(mine.fraction, theirs.fraction) < 1:
    yield (f"data.seed is {mine.seed} and {theirs.seed}, which draws other texts as"
           " data.fraction. Give both the same data.seed.")


def _causes(study, treated, control, reader) -> Iterator[str]:
  # Otherwise the study gives them equal budgets itself, see `equal.steps`.
  if study.equal == "steps":
    for sentence in budgets(treated.run, control.run):
      field = sentence.partition(" ")[0]
      yield (f"{sentence} Give both the same {field}, for the same budget, or set"
             " equal='tokens' or 'flops' in the study.")
  yield from documents(treated.run, control.run, reader)
  yield from training(treated.run, control.run, reader)


def _difference(mine: Sequence[Any], theirs: Sequence[Any]) -> str:
  if len(mine) != len(theirs):
    return f"{len(mine)} and {len(theirs)} of them"
  number = next(i for i, both in enumerate(zip(mine, theirs), 1) if both[0] != both[1])
  return f"of which number {number} is the first that differs"


def _fields(
    mine: config_lib.Data, theirs: config_lib.Data, others: Collection[str]) -> str:
  """Names the fields of the data that may be the cause, which no `others` are."""
  differ = [
      f"data.{name} ({getattr(mine, name)!r} and {getattr(theirs, name)!r})"
      for name in _differing(mine, theirs) if name not in others]
  return f": here {', '.join(differ)} differ" if differ else ""


def _differing(mine: config_lib.Data, theirs: config_lib.Data) -> list[str]:
  return [name for name in vars(mine) if getattr(mine, name) != getattr(theirs, name)]
