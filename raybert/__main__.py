"""``python -m raybert``, the same as ``raybert``."""

import sys

from raybert.main import main

sys.exit(main())
