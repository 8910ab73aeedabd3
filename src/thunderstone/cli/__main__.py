"""`python -m thunderstone.cli`, for where the `thunderstone` script is not on the PATH."""

import sys

from thunderstone.cli.main import main

sys.exit(main())
