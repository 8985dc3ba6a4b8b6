"""The maps of encoders without a decoder, of Hugging Face Transformers."""

from transfer_gen.maps import bert
from transfer_gen.maps import distilbert
from transfer_gen.maps import roberta

MAPS = (bert.MAP, roberta.MAP, distilbert.MAP)
FAMILIES = (bert.FAMILY, roberta.FAMILY, distilbert.FAMILY)
