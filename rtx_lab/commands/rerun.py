"""The child of `reproduce`: run a recorded configuration in a folder of its own.

python -m rtx_lab.commands.rerun RUN/config.yaml FOLDER
"""

import logging
import sys
from pathlib import Path

import yaml

from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import settle
from rtx_lab.run import run_settled


def main(config_path: Path, folder: Path) -> int:
    """Train and evaluate what the record says, without trackers; the outcome stands in the folder's result.json."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plain = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    quiet = {"tracking": {"wandb": "off", "tensorboard": False}, "run_anyway": False, "plan": False}
    folder.mkdir(parents=True, exist_ok=True)
    result = run_settled(settle(plain | quiet), RunDir(folder))
    return 0 if result["status"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
