"""Models with adapters: small params beside the kernels of an unchanged module.

`Adapted` runs a model under `nn.intercept_methods`. It changes what each layer computes
whose kernel an adapter names, with params that stand beside that kernel. These are
leaves of the model like any other, with axes, rows and groups.

LoRA stands beside every kernel: those of dense layers, and of recurrent cells for
inputs and state alike. IA3 and bottlenecks stand around layers that read one input,
prefixes before the keys of a Decoder. Learned tokens before the text (prompt tuning,
Lester et al., 2021) are no adapter here, because they make texts longer. To get them,
add tokens to the vocabulary, put them before each text, and let only their rows learn
(`Group.table_rows`).
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import zlib

from flax import linen as nn
import jax

from transfer_gen import tree
from transfer_gen.adapters import calls
from transfer_gen.adapters import leaves as adapter_leaves
from transfer_gen.adapters import places
from transfer_gen.models import extended
from transfer_gen.models import registry

Model = extended.Model

_Adapters = tuple[adapter_leaves.Adapter, ...]
_Specs = Mapping[str, tree.Spec]


@dataclasses.dataclass(frozen=True)
class Adapted:
  """Adapters as an addition to a model, see `extended.Addition`.

  Attributes:
    adapters: The adapters that act on it, in order: each acts around all before it.
  """
  adapters: _Adapters

  def added(self, specs: _Specs) -> dict[str, tree.Spec]:
    """Returns the specs of the adapters' params.

    Raises:
      errors.UserError: If an adapter matches no kernel or one on which it cannot act,
        or if two have the same name.
    """
    places.check(self.adapters, specs)
    return tree.specs({
        name: leaf.box() for name, leaf in self._leaves(specs).items()})

  def init(self, key: jax.Array, specs: _Specs) -> dict[str, tree.Axes]:
    """Returns initial values; each depends on the key and its leaf's name alone."""
    # crc32, because Python's own hash of a text differs between processes.
    return {name: leaf.draw(jax.random.fold_in(key, zlib.crc32(name.encode())))
            for name, leaf in self._leaves(specs).items()}

  def around(self, train: bool) -> contextlib.AbstractContextManager[None]:
    """Intercepts the layers whose kernels the adapters name."""
    return nn.intercept_methods(calls.Interceptor(self.adapters, train))

  def _leaves(self, specs: _Specs) -> dict[str, adapter_leaves.Leaf]:
    return {adapter.leaf(name, part): leaf
            for adapter, name, spec in adapter_leaves.beside(self.adapters, specs)
            for part, leaf in adapter_leaves.by_part(adapter, name, spec).items()}


def wrap(
    model: extended.Model, adapters: Sequence[adapter_leaves.Adapter]
) -> extended.Model:
  """Returns the model with adapters; without any, the model itself."""
  return extended.extend(model, Adapted(tuple(adapters))) if adapters else model


def build(
    config: registry.Config,
    adapters: Sequence[adapter_leaves.Adapter] = ()) -> extended.Model:
  """Builds the model of a config, with the adapters that act on it.

  Raises:
    errors.UserError: As `registry.build`.
  """
  return wrap(registry.build(config), adapters)


def specs(
    config: registry.Config, adapters: Sequence[adapter_leaves.Adapter] = ()
) -> dict[str, tree.Spec]:
  """Returns the specs of the params of a model with its adapters.

  Raises:
    errors.UserError: As `build`, or as `Adapted.added`.
  """
  return registry.specs(build(config, adapters))
