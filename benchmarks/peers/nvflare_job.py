"""Runs one FedAvg job on NVFlare services that are up, for `nvflare_network.py`, and downloads its result.

    python benchmarks/peers/nvflare_job.py ADMIN_KIT ADMIN MODEL.npy ROUNDS ANSWER

A program of its own, since NVFlare prints on standard output and reads the command line itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from timing import HERE, SITES

LOGIN_S = 60.0


def main(kit: str, admin: str, model: str, rounds: int, answer: str) -> None:
    """model: the initial one, .npy. answer: the file for the path of the downloaded result."""
    from nvflare.app_common.np.recipes import NumpyFedAvgRecipe
    from nvflare.recipe import ProdEnv

    recipe = NumpyFedAvgRecipe(
        name="do-nothing",
        initial_ckpt=model,
        min_clients=SITES,
        num_rounds=rounds,
        train_script=str(HERE / "nvflare_site.py"),
    )
    services = ProdEnv(startup_kit_location=kit, login_timeout=LOGIN_S, username=admin)
    run = recipe.execute(services)
    result = services.get_job_result(run.get_job_id())
    if result is None:
        raise SystemExit("the job has no result")
    Path(answer).write_text(str(result), "utf-8")


if __name__ == "__main__":
    given, sys.argv = sys.argv[1:], sys.argv[:1]
    main(given[0], given[1], given[2], int(given[3]), given[4])
