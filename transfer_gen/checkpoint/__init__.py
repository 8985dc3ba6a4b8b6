"""Writes and reads checkpoints; the only folder that uses Orbax.

The folder `checkpoints/` of a run holds `<step>/` with params, optimizer state and
facts (axes, data position, plan) as JSON, and `best/<step>/` without optimizer state.
"""

from transfer_gen.checkpoint.digests import Damaged
from transfer_gen.checkpoint.digests import not_finite
from transfer_gen.checkpoint.digests import of as digests_of
from transfer_gen.checkpoint.finding import find
from transfer_gen.checkpoint.layout import BEST
from transfer_gen.checkpoint.layout import FOLDER
from transfer_gen.checkpoint.layout import is_step
from transfer_gen.checkpoint.saving import Checkpoints
from transfer_gen.checkpoint.stored import axes_facts
from transfer_gen.checkpoint.stored import OWN
from transfer_gen.checkpoint.stored import Specs
from transfer_gen.checkpoint.stored import Stored

__all__ = (
    "BEST", "Checkpoints", "Damaged", "FOLDER", "OWN", "Specs", "Stored", "axes_facts",
    "digests_of", "find", "is_step", "not_finite")
