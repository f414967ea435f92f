from il2m.cli import main

raise SystemExit(main())
