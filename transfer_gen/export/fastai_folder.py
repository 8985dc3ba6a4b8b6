"""Writes language models of LSTMs in the names that fastai reads."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen.export import arrays as arrays_lib
from transfer_gen.export import merged
from transfer_gen.formats import safetensors
from transfer_gen.formats import whole
from transfer_gen.maps import awd_lstm

_WRITTEN = ("Its names are those of fastai's AWD-LSTM: load_state_dict takes them from"
            " safetensors.torch.load_file.")
_OURS = ("init", "dtype", "remat", "hidden_width", "hidden_widths")


def write(
    folder: epath.Path, source: merged.Source, dtype: str = "") -> tuple[str, ...]:
  """Writes `model.safetensors` and, where the tokenizer is fastai's, `itos.json`.

  Args:
    folder: Where to; it is there and empty.
    source: A recurrent language model. One that was read from fastai's names is written
      in the dtypes that it had, bit for bit, unless another is asked for.
    dtype: Name of the dtype that all tensors get, or "".

  Returns:
    Sentences on what was written, and on what could not be.

  Raises:
    errors.UserError: If fastai's AWD-LSTM does not compute what the model does.
  """
  model: Any = source.model
  _check(source.title, model)
  dtypes = (dict.fromkeys(awd_lstm.specs(model, {}), np.dtype(dtype)) if dtype
            else _dtypes(source))
  arrays, rounded = arrays_lib.export(
      awd_lstm.map_of(model), awd_lstm.specs(model, dtypes), model,
      merged.params(source))
  safetensors.write_file(
      folder / "model.safetensors", awd_lstm.whole(model, arrays), {"format": "pt"})
  if source.tokenizer is None:
    return _WRITTEN, *rounded, merged.NO_TOKENIZER
  words = awd_lstm.words(source.tokenizer)
  if words is None:
    return (_WRITTEN, *rounded,
            "Its tokenizer is none of fastai: no vocabulary was written.")
  whole.write_json(folder / "itos.json", words)
  return _WRITTEN, *rounded


def _check(title: str, model: Any) -> None:
  """Refuses a model with fields that fastai's would have otherwise."""
  theirs = awd_lstm.model_of(
      model.vocab_size, model.widths, model.embed_width, model.tied)
  wrong = [f"model.{field.name} is {getattr(model, field.name)!r}, and theirs would be"
           f" {getattr(theirs, field.name)!r}" for field in dataclasses.fields(model)
           if field.name not in _OURS and not field.name.endswith("dropout")
           and getattr(model, field.name) != getattr(theirs, field.name)]
  if wrong:
    raise errors.UserError(
        f"{title}: Transformers has no Recurrent, and fastai's AWD-LSTM is another one:"
        f" {'; '.join(wrong)}. Try --to=keras, which holds others.")


def _dtypes(source: merged.Source) -> Mapping[str, np.dtype]:
  """Returns the dtypes by name that a checkpoint of fastai had; else nothing."""
  view = source.view
  if view is None or view.name != awd_lstm.MAP.name:
    return {}
  raw: Any = view.raw
  prefix = awd_lstm.prefix_of(raw)
  return {name.removeprefix(prefix): spec.dtype for name, spec in raw.specs.items()
          if name.startswith(prefix)}
