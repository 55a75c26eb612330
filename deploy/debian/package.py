"""What the maintainer scripts need of apiha: `package.py take-over` (postinst), `package.py keep-config` (prerm)."""

import sys

sys.path.insert(0, "/usr/share/apiha")

from apiha.errors import ApihaError
from apiha.install.takeover import keep_config, take_over
from apiha.log import Reporter

report = Reporter()
try:
    {"take-over": take_over, "keep-config": keep_config}[sys.argv[1]](report)
except (ApihaError, OSError) as error:
    report.error(str(error))
    sys.exit(1)
