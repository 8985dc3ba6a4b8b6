"""The texts that a source was trained on, beside those of a target."""

from collections.abc import Mapping
import dataclasses

import jax

from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import recorded
from transfer_gen.study import gradients


def alignment(
    assembled: assembled_lib.Assembled, params: Mapping[str, jax.Array],
    reader: recorded.Reader) -> tuple[float | None, str]:
  """Returns `gradients.alignment` with the text of the source, or why it is unknown.

  Args:
    assembled: The run.
    params: Its params before the first step.
    reader: Has read the texts of other runs.

  Returns:
    The cosine and "", or None and a part of a sentence.
  """
  try:
    return gradients.alignment(assembled, params, read(assembled, reader)), ""
  # Other measures stand without it; whether the source fits was checked before.
  except (errors.UserError, OSError) as error:
    return None, errors.cause(error)


def read(
    assembled: assembled_lib.Assembled, reader: recorded.Reader
) -> assembled_lib.inputs_lib.Prepared:
  """Reads and tokenizes the texts of the source called "" as the target reads its own.

  Args:
    assembled: The run.
    reader: Has read the texts of other runs.

  Raises:
    errors.UserError: If they are not known, as of a checkpoint of another framework, if
      they are gone or changed, or if the target cannot read such texts.
  """
  run, source = assembled.run, assembled.sources.get("")
  workdir = source.workdir if source is not None else None
  # Only a run of this package says what it was trained on, unless it was converted.
  if workdir is None or not recorded.has_data(workdir):
    raise errors.UserError("the text that the source was trained on is not known")
  theirs = codec.read_run(workdir)
  recorded.texts(workdir, theirs, reader)  # Refuses texts that have changed since.
  # Rows and noise are the target's, because its gradients are compared. Texts and pairs
  # are laid out in different ways.
  alike = bool(theirs.data.input_field) == bool(run.data.input_field)
  return reader.data(dataclasses.replace(
      theirs.data, length=run.data.length, corrupt=run.data.corrupt,
      buckets=run.data.buckets if alike else (),
      packing=run.data.packing if alike else theirs.data.packing,
      reverse=run.data.reverse if alike else theirs.data.reverse),
      assembled.data.tokenizer, run.model)
