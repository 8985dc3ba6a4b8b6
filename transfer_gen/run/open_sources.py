"""Opens the checkpoints that a config names, and reads the texts of a source."""

from collections.abc import Callable, Mapping
import dataclasses

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.data import pipeline
from transfer_gen.models import registry

Source = sources_lib.Source
Sources = Mapping[str, Source]


def of_run(
    run: config_lib.Run, known: Sources | None = None
) -> dict[str, sources_lib.Source]:
  """Opens every source of a run, by its name in the plan.

  A folder that PEFT wrote adapts the model of the source without a name, or, if that is
  not known, the run's own model.

  Args:
    run: Config of the run.
    known: Sources that stand for what is at a path, by path.

  Raises:
    errors.UserError: If a path is empty or holds nothing that can be read.
  """
  found: dict[str, sources_lib.Source] = {}
  # Of `model="source"` nothing is known before the source is open.
  own = None if isinstance(run.model, str) else dataclasses.replace(
      run.model, vocab_size=run.model.vocab_size or 1)
  for name, source in run.all_sources().items():
    field = f"sources[{name!r}]" if name else "source"
    found[name] = (known or {}).get(source.path) or one(
        field, source, own, found.get(""))
  return found


def paths(source: config_lib.Source) -> tuple[str, ...]:
  """Returns the paths that a source is read from: one, or those of a pair's sides."""
  return tuple(filter(None, sources_lib.sides(source.path)))


def one(
    field: str, source: config_lib.Source, model: registry.Config | None = None,
    base: sources_lib.Source | None = None,
) -> sources_lib.Source:
  """Opens what one field of a config names.

  Args:
    field: Name of the field, for messages.
    source: Its value.
    model: As of `sources.open`.
    base: As of `sources.open`.

  Raises:
    errors.UserError: If the path is empty or holds nothing that can be read.
  """
  if not source.path:
    raise errors.UserError(
        f"{field}.path is empty: give the workdir of the run to transfer from.")
  return sources_lib.open(
      source.path, source.step, map_name=source.map, vocabulary=source.vocabulary,
      tokenizer=source.tokenizer, unused=source.unused,
      idle_fields=source.idle_fields, model=model, base=base)


def directions(run: config_lib.Run, sources: Sources) -> list[str]:
  """Returns a line for each source that learned texts in the other direction.

  Args:
    run: Config of the run, whose model is known.
    sources: Its sources, by name in the plan.
  """
  ways = {True: "from right to left", False: "from left to right"}
  # An encoder reads in both, and plans for pairs say which side a source begins.
  return [
      f"{f'sources.{name}' if name else 'source'} learned texts {ways[source.reverse]},"
      f" and this run reads them {ways[run.data.reverse]}: data.reverse"
      for name, source in sources.items()
      if source.reverse is not None and source.reverse != run.data.reverse
      and not registry.encodes(run.model)]


def remembered(
    run: config_lib.Run, read: Callable[[config_lib.Data], pipeline.Prepared]
) -> pipeline.Prepared | None:
  """Returns the texts of a run's source, `Run.remembered`; None if it names none.

  Args:
    run: Config of the run, with nothing left open.
    read: Tokenizes a data set.

  Raises:
    errors.UserError: As `read` does; the message says that it is about these texts.
  """
  if run.remembered is None:
    return None
  # Rows of the run's own length, where the config of these texts leaves it open.
  length = run.remembered.length or run.data.length
  try:
    return read(dataclasses.replace(run.remembered, length=length))
  except errors.UserError as error:
    raise errors.UserError(f"remembered: {error}") from error
