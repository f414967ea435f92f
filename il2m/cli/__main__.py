"""``python -m il2m.cli``."""

from il2m.cli import main

raise SystemExit(main())
