"""``python -m relqa_loss.cli``: the command line without an installed script."""

from . import entry

entry()
