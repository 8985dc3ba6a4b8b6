"""Writes the map file from which a user's own map of a checkpoint starts."""

from collections.abc import Sequence

from etils import epath

from transfer_gen import errors
from transfer_gen.formats import whole
from transfer_gen.sources import amended
from transfer_gen.sources import chosen_map
from transfer_gen.sources import foreign
from transfer_gen.sources import map_file


# A map is edited because it does not fit, so a misfit is a line here and no error.
def write(
    raw: chosen_map.Raw, output: epath.PathLike, map_name: str = "",
    unused: Sequence[str] = (), idle_fields: Sequence[str] = (),
) -> tuple[str, ...]:
  """Writes the map of a checkpoint as a file to edit; reads no array.

  Args:
    raw: The checkpoint under its own names.
    output: The file, which ends in .json and is not there yet.
    map_name: As of `opening.open`; likewise the others.
    unused: See there. They go into the file.
    idle_fields: See there. The file has the model, so that the config is not read.

  Returns:
    Sentences on what was written, and on what does not fit yet.

  Raises:
    errors.UserError: If the file cannot be written, or no map reads the checkpoint's
      config.
  """
  output = epath.Path(output)
  if output.suffix != ".json" or output.exists() or not output.parent.is_dir():
    raise errors.UserError(
        f"--output is {str(output)!r}, must be a new file that ends in .json, in a"
        " folder that is there.")
  raw.idle.update(dict.fromkeys(idle_fields, False))
  found = chosen_map.read(amended.without(raw, unused), map_name)
  amended.check_idle(raw)
  data = map_file.to_json(found.model, found.how, found.files)
  data["unused"] = [*data["unused"], *unused]
  whole.write_json(output, data)
  notes = [f"{output}: the map {found.name} of {raw.title}. Edit it, and give it as"
           f" --map={output}, or source.map in a config."]
  try:
    foreign.Foreign(found.raw, found.name, found.model, found.how, None)
  except errors.UserError as error:
    notes.append(f"It does not fit yet. {error}")
  return tuple(notes)
