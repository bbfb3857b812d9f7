"""``python -m polyp_utils``."""

import sys
import warnings

from polyp_utils.cli import main

warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
sys.exit(main())
