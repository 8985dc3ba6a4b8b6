"""The maps of encoders with a decoder, of Hugging Face Transformers."""

from transfer_gen.maps import bart
from transfer_gen.maps import composed
from transfer_gen.maps import marian
from transfer_gen.maps import t5

MAPS = (t5.MAP, bart.MAP, marian.MAP, composed.MAP)
FAMILIES = (t5.FAMILY, bart.FAMILY, marian.FAMILY, composed.FAMILY)
