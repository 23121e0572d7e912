"""`python -m align`: the command `align`, for launchers of several processes."""

import sys

from align.cli import main

sys.exit(main())
