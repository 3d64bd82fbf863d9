"""`python -m i2node`."""

import sys

from i2node.cli import main

sys.exit(main())
