"""``python -m relqa_loss.cli``: the command line without an installed script."""

import sys

from . import main

sys.exit(main())
