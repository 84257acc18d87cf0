"""``python -m tersor`` is the command ``tersor``."""

from __future__ import annotations

import sys

from tersor.cli import main

sys.exit(main())
