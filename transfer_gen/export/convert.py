"""A checkpoint in another form: a workdir of ours, or what others load."""

from etils import epath
import jax

from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.adapters import wrap as adapters_lib
from transfer_gen.config import adapters as config_adapters
from transfer_gen.config import codec
from transfer_gen.data import documents
from transfer_gen.data import tokenizers
from transfer_gen.export import hugging_face_folder
from transfer_gen.export import keras_folder
from transfer_gen.export import peft_folder
from transfer_gen.formats import whole
from transfer_gen.maps import families
from transfer_gen.models import registry
from transfer_gen.sources import foreign
from transfer_gen.transfer import audit as audit_lib


def convert(
    path: epath.PathLike, output: epath.PathLike, form: str, name: str = "",
    step: int = -1, vocabulary: str = foreign.REFUSE
) -> tuple[str, ...]:
  """Writes a checkpoint in another form; whole, or not at all.

  Args:
    path: A run's workdir, or one of its checkpoints; or a foreign checkpoint.
    output: A folder that is not there yet.
    form: `orbax`: a workdir whose checkpoint is the source's, to transfer from or to
      generate with. `safetensors`: a folder that Hugging Face Transformers loads.
      `keras`: one with a recurrent model's weights and config, see `keras_write`. In
      all of these a run's adapters are merged into its kernels. `peft`: they alone, see
      `peft_write`; beside them `base`, what they stand beside, in safetensors, unless
      that is the run's source as it is.
    name: Of a map: how a foreign checkpoint is read; for one of ours, as what it is
      written. "": found out.
    step: Which checkpoint of a run. -1: the best.
    vocabulary: See `foreign.view`.

  Returns:
    Sentences on what was written, and on what could not be.

  Raises:
    errors.UserError: If the checkpoint cannot be read, or the form not hold it.
  """
  if form not in FORMS:
    raise errors.UserError(f"--to is {form!r}, must be one of {', '.join(FORMS)}.")
  output = epath.Path(output)
  if output.exists():
    raise errors.UserError(f"{output}: is there already. Take another --output.")
  source, name = _opened(path, name, step, vocabulary)
  write = FORMS[form]
  with whole.folder(output) as folder:
    notes = write(source, folder, name)
  if source.adapters and write is not _to_peft:
    names = ", ".join(adapter.name for adapter in source.adapters)
    notes += (f"Merged into its kernels: {names}.",)
  return (f"{output}: {form} of {source.title}", *notes)


def _opened(
    path: epath.PathLike, name: str, step: int, vocabulary: str
) -> tuple[sources.Source, str]:
  """The source, and the map that it is written through, "" to find one."""
  # A run is read without a map: there the name says which map it is written through.
  foreign = sources.is_foreign(path)
  source = sources.open(
      path, step, map_name=name if foreign else "", vocabulary=vocabulary)
  if source.model is None:
    raise errors.UserError(
        f"{source.title}: nothing says which model this is, so it cannot be converted."
        " Give the workdir of a run, or a checkpoint that has a map.")
  return source, "" if foreign else name


def _specs(source: sources.Source) -> dict[str, tree.Spec]:
  """Specs of the model's leaves, without those of adapters."""
  if not source.adapters:
    return dict(source.specs)
  return registry.specs(registry.build(source.model))


def _params(source: sources.Source) -> dict[str, jax.Array]:
  """All leaves of the model, with adapters merged into them."""
  params = dict(source.read(list(source.specs)))
  if not source.adapters:
    return params
  return adapters_lib.merge(params, source.adapters, _specs(source))


def _to_orbax(
    source: sources.Source, folder: epath.Path, name: str) -> tuple[str, ...]:
  """Writes a workdir with one checkpoint, of step 0."""
  del name
  if source.view is None and not source.adapters:
    raise errors.UserError(
        f"{source.title}: of this form already. Take another --to.")
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save_best(0, _params(source), {
      "axes": checkpoint.axes_facts(_specs(source)),
      "constants": registry.constants(source.model)})
  checkpoints.close()
  if source.tokenizer is not None:
    source.tokenizer.save(folder / tokenizers.FOLDER)
  # Their texts were not cleaned as ours are: a prompt may end in a space.
  data = config_lib.Data(newline=documents.KEEP)
  whole.write_json(folder / codec.CONFIG, codec.of_run(
      config_lib.Run(model=source.model, data=data)))
  return () if source.tokenizer else (hugging_face_folder.NO_TOKENIZER,)


def _to_safetensors(
    source: sources.Source, folder: epath.Path, name: str) -> tuple[str, ...]:
  if not isinstance(source.model, config_lib.Decoder):
    raise errors.UserError(
        f"{source.title}: Transformers has no {type(source.model).__name__}. Take"
        " --to=keras.")
  if families.writes_back(source.view):
    return hugging_face_folder.write_back(folder, source, _params(source))
  return hugging_face_folder.write(
      folder, source.model, _params(source), source.tokenizer, name)


def _to_keras(
    source: sources.Source, folder: epath.Path, name: str) -> tuple[str, ...]:
  del name
  if not isinstance(source.model, config_lib.Recurrent):
    raise errors.UserError(
        f"{source.title}: a {type(source.model).__name__} is no model of Keras"
        " that is known here. Take --to=safetensors.")
  notes = keras_folder.write_folder(
      folder, source.model, _params(source), source.tokenizer)
  if source.tokenizer is not None:
    source.tokenizer.save(folder / tokenizers.FOLDER)
  return notes if source.tokenizer else (hugging_face_folder.NO_TOKENIZER,)


def _to_peft(
    source: sources.Source, folder: epath.Path, name: str) -> tuple[str, ...]:
  if not source.adapters:
    raise errors.UserError(f"{source.title}: no run with adapters.")
  if not isinstance(source.model, config_lib.Decoder):
    raise errors.UserError(
        f"{source.title}: Transformers has no {type(source.model).__name__}"
        " for PEFT to stand beside. Its workdir holds its adapters.")
  params = dict(source.read(list(source.specs)))
  base, notes = _base(source), ()
  if base is None:
    own = {leaf: params[leaf] for leaf in _specs(source)}
    (folder / "base").mkdir()
    notes = hugging_face_folder.write(
        folder / "base", source.model, own, source.tokenizer, name)
    base = str(whole.final_name(folder) / "base")
  return (*peft_folder.write(
      folder, source.model, params, source.adapters, base, name), *notes)


def _base(adapted: sources.Source) -> str | None:
  """The folder of the run's source, if all but the adapters is as it lies there."""
  run = codec.read_run(adapted.workdir)
  leaves = config_adapters.leaves(adapted.adapters)
  rows = [row for row in audit_lib.read(adapted.workdir).rows
          if not tree.match([leaves], row.name)]
  if run.source is None or any(
      row.how != "copy" or row.checkpoint or row.unfreeze_step is not None
      for row in rows):
    return None
  base = sources.open(run.source.path, run.source.step, map_name=run.source.map,
                      vocabulary=run.source.vocabulary)
  if not families.writes_back(base.view):
    return None
  return str(base.path if base.path.is_dir() else base.path.parent)


FORMS = {"orbax": _to_orbax, "safetensors": _to_safetensors, "keras": _to_keras,
         "peft": _to_peft}
