"""Imports point down only."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "transfer_gen"
# From the ground up; a module may import those of lower layers and no others.
LAYERS = (
    ("errors",),
    ("config_adapters", "config_models", "config_sources", "config_strategy"),
    ("tree", "config", "transfer.vocabulary"),
    ("config_json", "config_file"),
    ("sources.raw", "sources.archive", "sources.pickles"),
    ("sources.hdf5",),
    ("sources.hdf5_chunks",),
    ("transfer.plan", "transfer.vectors", "transfer.fold"),
    ("transfer.mixtures",),
    ("transfer.axes", "transfer.entries", "transfer.completeness", "transfer.layouts",
     "sharding", "checkpoint", "data.files", "data.tokenizer_kinds", "models.layers",
     "data.datasets.*"),
    ("data.tokenizer_pieces",),
    ("models.*", "data.catalog", "data.tokenizers", "transfer.resolve",
     "sources.*"),
    ("train.objectives", "train.alignment", "sources.word_vectors"),
    ("train.adapter_leaves", "train.anchors", "train.fisher"),
    ("train.adapter_calls",),
    ("train.adapters",),
    ("sources", "transfer.strategies", "transfer.groups", "models.registry",
     "data.documents", "transfer.rows_json", "transfer.restore",
     "transfer.suggest_axes", "train.optim"),
    ("sources.maps",),
    ("sources.maps.*",),
    ("sources.foreign",),
    ("sources.hugging_face_write", "sources.keras_write"),
    ("sources.peft",),
    ("sources.peft_write",),
    ("data.rows", "train.step", "transfer.audit", "transfer.suggest"),
    ("data.pipeline", "transfer.table"),
    ("transfer.difference", "evaluate.audit_page"),
    ("train.moments", "train.named", "train.features", "train.teacher"),
    ("train.distill",),
    ("generate.start", "train.parallel", "evaluate.evaluate", "evaluate.report",
     "train.setup"),
    ("train.workdir", "train.feed", "generate.sampling", "generate.beam", "train.cost",
     "train.start"),
    ("train.loop", "evaluate.trained", "evaluate.search_page", "sources.convert"),
    ("train.auto", "evaluate.answers"),
    ("evaluate.accounts",),
    ("evaluate.study",),
    ("__main__",),
)
# `transfer` meets models as specs, data as token lists, Optax as labels; models
# know nothing of transfer; an experiment may be imported without touching a device.
APART = (("transfer", ("models", "data", "train", "optax", "orbax")),
         ("models", ("transfer", "train", "data", "optax", "orbax")),
         ("config", ("jax", "flax", "numpy", "orbax")))


def _modules():
  for path in sorted(PACKAGE.rglob("*.py")):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    name = name.removesuffix(".__init__")
    if path.read_text().strip() and name != "__init__":
      yield name, path


def _imports(path):
  """Modules of the package, and the roots of others, that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module.startswith("transfer_gen"):
      parent = node.module.removeprefix("transfer_gen").lstrip(".")
      for alias in node.names:
        yield f"{parent}.{alias.name}".lstrip(".")
    elif isinstance(node, ast.ImportFrom):
      yield node.module.split(".")[0]
    elif isinstance(node, ast.Import):
      yield from (alias.name.split(".")[0] for alias in node.names)


def _layer(name):
  found = [(len(entry), number) for number, layer in enumerate(LAYERS)
           for entry in layer if entry == name or (
               entry.endswith(".*") and name.startswith(entry[:-1]))]
  return max(found)[1] if found else None  # The longest entry says it most exactly.


MODULES = dict(_modules())


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
  assert _layer(name) is not None, f"{name} has no layer: give it one"

  for imported in _imports(MODULES[name]):
    if imported in MODULES:
      below = _layer(imported) < _layer(name)
      beside = name.startswith(("models.", "data.datasets.", "sources.maps."))
      assert below or (beside and _layer(imported) == _layer(name)), (
          f"{name} imports {imported}")


@pytest.mark.parametrize("package, others", APART)
def test_what_is_apart_stays_apart(package, others):
  mine = [n for n in MODULES if n == package or n.startswith(package + ".")]
  assert mine

  for name in mine:
    for imported in _imports(MODULES[name]):
      assert imported.split(".")[0] not in others, f"{name} imports {imported}"
