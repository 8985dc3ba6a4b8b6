"""A checkpoint in another form: a workdir of ours, or what others load."""

import dataclasses

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
from transfer_gen.formats import raw
from transfer_gen.formats import whole
from transfer_gen.maps import families
from transfer_gen.models import registry
from transfer_gen.sources import foreign
from transfer_gen.sources import peft
from transfer_gen.transfer import audit as audit_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Opened:
  """What a conversion begins with.

  Attributes:
    source: The checkpoint.
    model: Config of its model.
    tokenizer: Of its ids, where there is one.
    run: The run whose checkpoint it is, if it is one.
    workdir: Of that run.
  """
  source: checkpoint.Stored | foreign.Foreign
  model: config_lib.Decoder | config_lib.Recurrent
  tokenizer: tokenizers.Tokenizer | None
  run: config_lib.Run | None = None
  workdir: epath.Path | None = None

  @property
  def adapters(self) -> tuple[config_adapters.Adapter, ...]:
    """Those that act on the model."""
    return self.run.adapters if self.run else ()

  @property
  def specs(self) -> dict[str, tree.Spec]:
    """Of the model's leaves, without those of adapters."""
    return (registry.specs(registry.build(self.model)) if self.adapters
            else self.source.specs)

  def read(self) -> dict[str, jax.Array]:
    """All leaves of the model, with adapters merged into them."""
    params = dict(self.source.read(list(self.source.specs)))
    if not self.adapters:
      return params
    return adapters_lib.merge(params, self.adapters, self.specs)


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
  opened = _open(path, name, step, vocabulary)
  write = FORMS[form]
  with whole.folder(output) as folder:
    notes = write(opened, folder, name)
  if opened.adapters and write is not _to_peft:
    names = ", ".join(adapter.name for adapter in opened.adapters)
    notes += (f"Merged into its kernels: {names}.",)
  return (f"{output}: {form} of {opened.source.title}", *notes)


def _open(path, name, step, vocabulary) -> _Opened:
  source = sources.open(path, step)
  if peft.recognizes(source):
    raise errors.UserError(
        f"{source.path}: an adapter of PEFT's. Take it as one of a run's sources.")
  if isinstance(source, raw.Raw):
    source = foreign.view(source, name, vocabulary)
    return _Opened(source=source, model=source.model, tokenizer=source.tokenizer)
  folder = next((parent for parent in source.path.parents
                 if (parent / codec.CONFIG).exists()), source.path)
  tokenizer, run = folder / tokenizers.FOLDER, codec.read_run(folder)
  return _Opened(
      source=source, model=run.model, run=run, workdir=folder,
      tokenizer=tokenizers.load(tokenizer) if tokenizer.exists() else None)


def _to_orbax(opened: _Opened, folder: epath.Path, name: str) -> tuple[str, ...]:
  """A workdir with one checkpoint, of step 0."""
  del name
  if isinstance(opened.source, checkpoint.Stored) and not opened.adapters:
    raise errors.UserError(
        f"{opened.source.title}: of this form already. Take another --to.")
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save_best(0, opened.read(), {
      "axes": checkpoint.axes_facts(opened.specs),
      "constants": registry.constants(opened.model)})
  checkpoints.close()
  if opened.tokenizer is not None:
    opened.tokenizer.save(folder / tokenizers.FOLDER)
  # Their texts were not cleaned as ours are: a prompt may end in a space.
  data = config_lib.Data(newline=documents.KEEP)
  whole.write_json(folder / codec.CONFIG, codec.of_run(
      config_lib.Run(model=opened.model, data=data)))
  return () if opened.tokenizer else (hugging_face_folder.NO_TOKENIZER,)


def _to_safetensors(opened: _Opened, folder: epath.Path, name: str) -> tuple[str, ...]:
  source = opened.source
  if not isinstance(opened.model, config_lib.Decoder):
    raise errors.UserError(
        f"{source.title}: Transformers has no {type(opened.model).__name__}. Take"
        " --to=keras.")
  if isinstance(source, foreign.Foreign):
    if source.map in {family.name for family in families.FAMILIES}:
      return hugging_face_folder.write_back(folder, source, opened.read())
    name = ""
  return hugging_face_folder.write(
      folder, opened.model, opened.read(), opened.tokenizer, name)


def _to_keras(opened: _Opened, folder: epath.Path, name: str) -> tuple[str, ...]:
  del name
  if not isinstance(opened.model, config_lib.Recurrent):
    raise errors.UserError(
        f"{opened.source.title}: a {type(opened.model).__name__} is no model of Keras"
        " that is known here. Take --to=safetensors.")
  notes = keras_folder.write_folder(
      folder, opened.model, opened.read(), opened.tokenizer)
  if opened.tokenizer is not None:
    opened.tokenizer.save(folder / tokenizers.FOLDER)
  return notes if opened.tokenizer else (hugging_face_folder.NO_TOKENIZER,)


def _to_peft(opened: _Opened, folder: epath.Path, name: str) -> tuple[str, ...]:
  if not opened.adapters:
    raise errors.UserError(f"{opened.source.title}: no run with adapters.")
  if not isinstance(opened.model, config_lib.Decoder):
    raise errors.UserError(
        f"{opened.source.title}: Transformers has no {type(opened.model).__name__}"
        " for PEFT to stand beside. Its workdir holds its adapters.")
  params = dict(opened.source.read(list(opened.source.specs)))
  base, notes = _base(opened), ()
  if base is None:
    own = {leaf: params[leaf] for leaf in opened.specs}
    (folder / "base").mkdir()
    notes = hugging_face_folder.write(
        folder / "base", opened.model, own, opened.tokenizer, name)
    base = str(whole.final_name(folder) / "base")
  return (*peft_folder.write(
      folder, opened.model, params, opened.adapters, base, name), *notes)


def _base(opened: _Opened) -> str | None:
  """The folder of the run's source, if all but the adapters is as it lies there."""
  leaves = config_adapters.leaves(opened.adapters)
  rows = [row for row in audit_lib.read(opened.workdir).rows
          if not tree.match([leaves], row.name)]
  if opened.run.source is None or any(
      row.how != "copy" or row.checkpoint or row.unfreeze_step is not None
      for row in rows):
    return None
  source = sources.open(opened.run.source.path, opened.run.source.step)
  if not isinstance(source, raw.Raw) or foreign.view(
      source, opened.run.source.map, opened.run.source.vocabulary).map not in {
          family.name for family in families.FAMILIES}:
    return None
  return str(source.path if source.path.is_dir() else source.path.parent)


FORMS = {"orbax": _to_orbax, "safetensors": _to_safetensors, "keras": _to_keras,
         "peft": _to_peft}
