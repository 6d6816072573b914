"""Read what pip-audit found: each known fault in one line, and plainly what nobody could tell.

Exit 1 if there is a fault. The service that knows of faults may be out of reach, or not know a release: such
packages count as "not audited", which is no finding and no all-clear.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

OURS = ("tidemill", "pip", "setuptools")
"""Not what a user installs from elsewhere."""


def main(report: Path) -> int:
    text = report.read_text()
    found = [one for one in (json.loads(text)["dependencies"] if text else []) if one["name"] not in OURS]
    faulty = [one for one in found if one.get("vulns")]
    skipped = [one["name"] for one in found if "skip_reason" in one]
    for one in faulty:
        for fault in one["vulns"]:
            print(f"{one['name']} {one['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or '-'}")
    print(f"{len(found) - len(skipped)} packages audited, {len(faulty)} with known faults")
    if skipped or not found:
        print(f"not audited (no answer about them): {', '.join(skipped) or 'any'}")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
