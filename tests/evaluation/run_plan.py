"""Started by torchrun: runs the plan in a JSON file into a folder."""

import json
import sys
from pathlib import Path

from captum_extract_aggregate.evaluation import plan_from, run

if __name__ == "__main__":
    run(plan_from(json.loads(Path(sys.argv[1]).read_text())), sys.argv[2], show_progress=False)
