"""`python -m fedobp_lib` is the `fedobp` command."""

import sys

from .cli import main

sys.exit(main())
