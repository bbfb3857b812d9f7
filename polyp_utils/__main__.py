"""``python -m polyp_utils``."""

import sys

from polyp_utils.cli import main

sys.exit(main())
