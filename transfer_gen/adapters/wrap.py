"""Models with adapters: small params beside the kernels of an unchanged module.

`Adapted` runs a model under `nn.intercept_methods`. Around each layer that has a
kernel which an adapter names, it does what the adapter does, with params that it puts
beside that kernel: leaves of the model like any other, with axes, rows and groups.

LoRA stands beside every kernel: those of dense layers, and of recurrent cells for
inputs and state alike. IA3 and bottlenecks stand around layers that read one input,
prefixes before the keys of a Decoder. Learned tokens before the text (prompt tuning,
Lester et al., 2021) do not come this way, for they make texts longer: rows that are
added to the vocabulary, stand before each text and learn alone (`Group.table_rows`)
are the same.
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
    """Specs of the adapters' params.

    Raises:
      errors.UserError: If an adapter matches no kernel or one where it cannot stand,
        or if two have one name.
    """
    places.check(self.adapters, specs)
    return tree.specs({
        name: leaf.box() for name, leaf in self._leaves(specs).items()})

  def init(self, key: jax.Array, specs: _Specs) -> dict[str, tree.Axes]:
    """Initial values; each depends on the key and on the name of its leaf alone."""
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
  """Specs of the params of a model with its adapters.

  Raises:
    errors.UserError: As `build`, or if an adapter cannot stand where it is asked to.
  """
  return registry.specs(build(config, adapters))
