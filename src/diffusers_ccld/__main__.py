import sys

from ccld_command import main

sys.exit(main())
