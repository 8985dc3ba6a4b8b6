"""The model of a run that takes the model of its source."""

from collections.abc import Mapping
import dataclasses
import difflib
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.data import tokenizers
from transfer_gen.models import registry
from transfer_gen.transfer import constants as constants_lib

SOURCE = "source"  # A value of `Run.model` and of `Tokenizer.kind`.


def of_run(
    run: config_lib.Run, sources: Mapping[str, sources_lib.Source],
    tokenizer_: sources_lib.Tokenizer,
) -> registry.Config:
  """Returns the model of a run: its own, or its source's with what it changes.

  Fields that no change names keep what the source's model computes, also where their
  default follows from a size that changes. The vocabulary is the source's if the
  tokenizer is, and is left open otherwise.

  Args:
    run: Config of the run.
    sources: Its sources, by name in the plan.
    tokenizer_: Its tokenizer.

  Raises:
    errors.UserError: If the model is the source's and no source knows it, if a change
      names no field, if the model cannot learn the next token, or if the vocabulary
      does not fit.
  """
  own, model = tokenizers.own_encoder(tokenizer_), _model(run, sources)
  registry.require_next_token(model)
  _check_drawn(model, tokenizers.is_drawn(tokenizer_))
  if run.model == SOURCE and getattr(model, "encoder_vocab_size", 0):
    model = _with_own_side(model, run, own is not None)
  return registry.with_vocabulary(
      model, tokenizer_.size, own.size if own else 0)


def _check_drawn(model: registry.Config, drawn: bool) -> None:
  """Checks that a model of drawings, and no other one, learns drawings."""
  if registry.is_drawn(model) != drawn:
    kind = type(model).__name__
    raise errors.UserError(
        f"The model is a {kind}, and the tokenizer is "
        + ("that of drawings, which a Sketch reads. Choose model=config.Sketch()"
           if drawn else
           "none of drawings. Choose tokenizer.kind=strokes")
        + ", or the other for the kind of your data.")


def _model(
    run: config_lib.Run, sources: Mapping[str, sources_lib.Source]
) -> registry.Config:
  if run.model != SOURCE:
    if run.model_changes:
      raise errors.UserError(
          f"model_changes is {run.model_changes!r}, and model is not 'source'. Set"
          " these fields in the model itself.")
    return run.model
  source = sources.get("")
  if source is None or source.model is None:
    raise errors.UserError(
        "model is 'source', and " + (
            "of several sources none is called ''." if source is None
            else f"{source.path} does not say what its model is. Give a model."))
  model = _changed(source.model, run.model_changes)
  return model if run.tokenizer.kind == SOURCE else _without_vocabulary(model)


def _with_own_side(
    model: registry.Config, run: config_lib.Run, has_own: bool) -> registry.Config:
  """Returns a source's model with a table for each side, for the run's tokenizers."""
  if not has_own and run.tokenizer.kind != SOURCE:
    raise errors.UserError(
        f"tokenizer.kind is {run.tokenizer.kind!r}, and the source has tokens of its"
        " own on each side, with a table for each. Set encoder_tokenizer.kind as well,"
        " to the same kind if one vocabulary is to serve both.")
  own = run.encoder_tokenizer
  if own is None or own.kind == SOURCE:
    return model
  return replaced(model, {"encoder_vocab_size": 0})


def tokenizer(
    sources: Mapping[str, sources_lib.Source]) -> sources_lib.Tokenizer:
  """Returns the tokenizer of the source.

  Raises:
    errors.UserError: If there is none.
  """
  source = sources.get("")
  if source is None or source.tokenizer is None:
    raise errors.UserError(
        "tokenizer.kind is 'source', and " + (
            "the run has no source: set source.path." if source is None
            else sources_lib.ask(source.path or "")))
  return source.tokenizer


def replaced(model: registry.Config, changes: Mapping[str, Any]) -> registry.Config:
  """Returns a model's config with some fields changed.

  Args:
    model: The config.
    changes: Values by the names of fields.

  Raises:
    errors.UserError: If there is no such field, with the nearest names.
  """
  names = [field.name for field in dataclasses.fields(model)]
  if changes.get("shared") and isinstance(model, config_lib.EncoderDecoder):
    model = registry.sharing(model)
  for name in changes:
    if name not in names:
      near = difflib.get_close_matches(name, names, n=2) or names
      raise errors.UserError(
          f"model.{name}: {_article(model)} has no such field. Nearest:"
          f" {', '.join(near)}.")
  return dataclasses.replace(model, **changes)


def _article(model: registry.Config) -> str:
  kind = type(model).__name__
  return f"{'an' if kind.startswith('E') else 'a'} {kind}"


def _changed(model: registry.Config, changes: Mapping[str, Any]) -> registry.Config:
  changed = replaced(model, changes)
  names = [field.name for field in dataclasses.fields(model)]
  # A scale that follows from the width, say, would change with it. Only what is asked
  # for may change, so the value is written out.
  kept = constants_lib.differences(
      registry.constants(model), registry.constants(changed))
  return dataclasses.replace(changed, **{
      name: theirs for name, (theirs, _) in kept.items()
      if name in names and name not in changes and name not in ("windows",)})


def _without_vocabulary(model: registry.Config) -> registry.Config:
  """Returns a model for another tokenizer, whose sizes and ids are not known yet."""
  open_fields = {"vocab_size": 0}
  if registry.encodes(model):
    open_fields["start_token"] = -1
  return dataclasses.replace(model, **open_fields)
