"""Train, evaluate and resume what the configuration names. See `python train.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from rtx_lab.sweep.door import HYDRA_KEYWORDS, enter, run_job


@hydra.main(config_path="conf", config_name="config", **HYDRA_KEYWORDS)
def main(config: DictConfig) -> float | None:
    return run_job(config)


if __name__ == "__main__":
    sys.exit(enter(main))
