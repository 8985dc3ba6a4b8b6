"""The architectures that Hugging Face Transformers loads, and which of them a model is."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import bart
from transfer_gen.maps import gemma
from transfer_gen.maps import gpt2
from transfer_gen.maps import gpt_neox
from transfer_gen.maps import hugging_face
from transfer_gen.maps import llama
from transfer_gen.maps import mapped
from transfer_gen.maps import marian
from transfer_gen.maps import opt
from transfer_gen.maps import t5

FAMILIES = (gpt2.FAMILY, opt.FAMILY, gpt_neox.FAMILY, llama.FAMILY, gemma.FAMILY,
            t5.FAMILY, bart.FAMILY, marian.FAMILY)


def family_of(
    model: config_lib.Decoder, name: str = ""
) -> tuple[hugging_face.Family, dict[str, Any]]:
  """A family that can hold a model, and the fields of its config.json.

  Args:
    model: Its config.
    name: Of the family. "": the first that can.

  Raises:
    errors.UserError: If none can; with the fields.
  """
  known = [family for family in FAMILIES if name in ("", family.name)]
  if not known:
    raise errors.UserError(
        f"There is no map {name!r} to write; there are"
        f" {', '.join(family.name for family in FAMILIES)}.")
  wrong = []
  for family in [f for f in known if name or f.kind is type(model)]:
    try:
      return family, hugging_face.write(family, model)
    except errors.UserError as error:
      wrong.append(str(error))
  raise errors.UserError("\n  ".join(
      ["No architecture of Transformers that is known here computes this:", *wrong]))


def writes_back(view: mapped.Mapped | None) -> bool:
  """Whether a view is through the map of one of the families."""
  return view is not None and view.name in {family.name for family in FAMILIES}
