"""A checkpoint of another framework as a source: through a map, or as adapters."""

from collections.abc import Sequence

from transfer_gen import errors
from transfer_gen.sources import amended
from transfer_gen.sources import foreign
from transfer_gen.sources import given as given_lib
from transfer_gen.sources import own
from transfer_gen.sources import peft

NONE, REFUSE, REPAIR = foreign.NONE, foreign.REFUSE, foreign.REPAIR


def view(
    raw: amended.Raw, map_name: str = "", vocabulary: str = REFUSE,
    tokenizer: str = "", unused: Sequence[str] = (), idle_fields: Sequence[str] = (),
    model: own.Model | None = None, base: own.Source | None = None,
) -> own.Source:
  """Returns a checkpoint under our names; reads no array.

  Args:
    raw: The checkpoint under its own names.
    map_name: As of `opening.open`; likewise the others.
    vocabulary: See there.
    tokenizer: See there.
    unused: See there.
    idle_fields: See there.
    model: See there.
    base: See there.

  Raises:
    errors.UserError: If it cannot be read, or an argument does not apply to it.
  """
  raw = amended.without(raw, unused)
  raw.idle.update(dict.fromkeys(idle_fields, False))
  found = _view(raw, map_name, vocabulary, tokenizer, model, base)
  amended.check_idle(raw)
  return found


def _view(
    raw: amended.Raw, map_name: str, vocabulary: str, tokenizer: str,
    model: own.Model | None, base: own.Source | None) -> own.Source:
  if not peft.recognizes(raw):
    return foreign.view(raw, map_name, vocabulary, (
        lambda model: given_lib.read(tokenizer, model)) if tokenizer else None)
  if tokenizer or vocabulary != REFUSE:
    field, value = ("tokenizer", tokenizer) if tokenizer else ("vocabulary", vocabulary)
    raise errors.UserError(
        f"{raw.path}: adapters have the vocabulary of the model that they adapt, and"
        f" source.{field} (--{field}) is {value!r}. Leave it out.")
  if map_name:
    raise errors.UserError(
        f"{raw.path}: adapters are read as the model that they adapt, and a map is"
        f" given: {map_name!r}. Leave it out.")
  adapted = model if base is None or base.model is None else base.model
  if adapted is None:
    raise errors.UserError(
        f"{raw.path}: holds adapters that PEFT wrote, which need the model that they"
        " adapt, and that is not in the folder. Give both to a run: the model as its"
        " `source`, the adapters among its `sources`. Or merge them with PEFT"
        " (`merge_and_unload`, `save_pretrained`), and give the folder that this"
        " writes.")
  return peft.Adapter(raw, adapted, base)
