"""`python -m gpuzarr`: the command line."""

import sys

from gpuzarr.cli import main

sys.exit(main())
