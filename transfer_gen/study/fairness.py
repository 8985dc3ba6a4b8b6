"""Whether the runs of a pair can be compared: same test documents and same budget."""

from collections.abc import Iterator, Mapping

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.run import assemble

# Fields of `Train` that are the budget of a run.
_BUDGET = ("steps", "batch_size", "batch_tokens")
# Fields of `Data` that leave the documents of the test split as they are.
_OTHERS = (
    "fraction", "length", "too_long", "packing", "template", "buckets", "corrupt")


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
    errors.UserError: If the runs of a pair are tested on other documents, or train for
      other numbers of steps or on other batches; names all such pairs, what differs,
      and what would make them fair.
  """
  unfair = [
      f"{treated!r} and {control!r}: {cause}" for treated, control in study.pairs
      for cause in _causes(study, runs[treated], runs[control], reader)]
  if unfair:
    raise errors.UserError("\n  ".join([
        "pairs that cannot be compared fairly:", *dict.fromkeys(unfair)]))


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
           f" the same test texts{_fields(treated.data, control.data)}.")


def _causes(study, treated, control, reader) -> Iterator[str]:
  # Otherwise the study gives them equal budgets itself, see `equal.steps`.
  if study.equal == "steps":
    for sentence in budgets(treated.run, control.run):
      field = sentence.partition(" ")[0]
      yield (f"{sentence} Give both the same {field}, for the same budget, or set"
             " equal='tokens' or 'flops' in the study.")
  yield from documents(treated.run, control.run, reader)


def _difference(mine: list[str], theirs: list[str]) -> str:
  if len(mine) != len(theirs):
    return f"{len(mine)} and {len(theirs)} of them"
  number = next(i for i, both in enumerate(zip(mine, theirs), 1) if both[0] != both[1])
  return f"of which number {number} is the first that differs"


def _fields(mine: config_lib.Data, theirs: config_lib.Data) -> str:
  """Names the fields of the data that may be the cause."""
  differ = [
      f"data.{name} ({getattr(mine, name)!r} and {getattr(theirs, name)!r})"
      for name in vars(mine)
      if name not in _OTHERS and getattr(mine, name) != getattr(theirs, name)]
  return f": here {', '.join(differ)} differ" if differ else ""
