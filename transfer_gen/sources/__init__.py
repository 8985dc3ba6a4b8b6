"""Checkpoints to transfer from, each behind the one protocol `Source`."""

from transfer_gen.sources.given import ask
from transfer_gen.sources.memory import from_tree
from transfer_gen.sources.memory import Memory
from transfer_gen.sources.opening import is_foreign
from transfer_gen.sources.opening import NONE
from transfer_gen.sources.opening import REFUSE
from transfer_gen.sources.opening import REPAIR
from transfer_gen.sources.opening import write_map
from transfer_gen.sources.own import best_run
from transfer_gen.sources.own import open_own
from transfer_gen.sources.pair import leaves
from transfer_gen.sources.pair import open
from transfer_gen.sources.pair import Pair
from transfer_gen.sources.pair import sides
from transfer_gen.sources.source import dtypes_note
from transfer_gen.sources.source import Source
from transfer_gen.sources.source import Specs
from transfer_gen.sources.source import Tokenizer

__all__ = (
    "Memory", "NONE", "Pair", "REFUSE", "REPAIR", "Source", "Specs", "Tokenizer", "ask",
    "best_run", "dtypes_note", "from_tree", "is_foreign", "leaves", "open", "open_own",
    "sides", "write_map")
