"""``python -m il2m.cli``."""

import sys

from il2m.cli import main

sys.exit(main())
