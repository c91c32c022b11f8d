"""Seconds per round of a do-nothing FedAvg in NVFlare's POC: a server and three clients as real processes, mutual TLS.

    .bench-venv/nvflare/bin/python benchmarks/peers/nvflare_network.py --parameters 10000 --rounds 10

NVFlare as it comes: its NumPy FedAvg recipe, POC's own provisioning, defaults everywhere; only the server's name is
`localhost`, since under any other it listens on every interface of the machine. A round is from one "Round n started" to
the next in the server's log of the job (the last: to "Finished FedAvg"); what it takes to provision, start, submit and
download is not in it. The final model is checked.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from timing import HERE, SITES, PeerError, Timing, arguments
from workplace import Workplace, free_ports, workplace

LIMIT_S = 300
START_S = 120
"""What POC's services get to start."""
PROJECT, ADMIN = "benchmark", "admin@nvidia.com"
_EVENT = re.compile(r"Round \d+ started|Finished FedAvg")


def project(port: int) -> str:
    """NVFlare's description of who takes part, as YAML (JSON is YAML)."""
    organisation = {"org": "benchmark"}
    return json.dumps(
        {
            "api_version": 3,
            "name": PROJECT,
            "description": "three clients on loopback",
            "participants": [
                {"name": "localhost", "type": "server", "fed_learn_port": port, **organisation},
                *({"name": f"site-{site + 1}", "type": "client", **organisation} for site in range(SITES)),
                {"name": ADMIN, "type": "admin", "role": "project_admin", **organisation},
            ],
            "builders": [
                {
                    "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
                    "args": {"template_file": ["master_template.yml"]},
                },
                {"path": "nvflare.lighter.impl.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
                {"path": "nvflare.lighter.impl.cert.CertBuilder"},
                {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
            ],
        }
    )


def stamps(log: str) -> list[float]:
    """Seconds: when each round began, and when the last ended. log: the server's for one job, a JSON object a line."""
    entries = (json.loads(line) for line in log.splitlines() if line)
    return [
        datetime.strptime(entry["asctime"], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        for entry in entries
        if entry["name"] == "FedAvg" and _EVENT.search(entry["message"])
    ]


def measure(here: Workplace, parameters: int, rounds: int) -> list[float]:
    """The stamps, once the model is found to be what the rounds make of it."""
    home, temporary = here.folder / "home", here.folder / "temporary"
    home.mkdir()
    temporary.mkdir()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",  # its start scripts call python3
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "NVFLARE_POC_WORKSPACE": str(here.folder / "poc"),
    }
    # A checkpoint: a model in the recipe itself would be written into the job as text.
    model, answer, plan = here.folder / "model.npy", here.folder / "answer", here.folder / "project.yml"
    plan.write_text(project(free_ports(1)[0]), "utf-8")
    np.save(model, np.zeros(parameters, np.float32))
    nvflare = (Path(sys.executable).parent / "nvflare", "poc")
    here.run("prepare", [*nvflare, "prepare", "--force", "-i", plan], environment)
    here.run("start", [*nvflare, "start", "--timeout", str(START_S)], environment)
    kit = here.folder / "poc" / PROJECT / "prod_00" / ADMIN
    here.run("job", [sys.executable, HERE / "nvflare_job.py", kit, ADMIN, model, str(rounds), answer], environment)
    result = Path(answer.read_text("utf-8"))
    final = next((np.load(found) for found in result.rglob("server.npy")), None)
    if final is None or final.size != parameters or not np.all(final == rounds):
        raise PeerError(f"the final model is not the mean of what the clients sent: {here.said('job')}")
    log = next(result.rglob("log.json"), None)
    found = stamps(log.read_text("utf-8", "replace")) if log else []
    if len(found) != rounds + 1:
        raise PeerError(f"the server's log tells of {max(0, len(found) - 1)} rounds, not of {rounds}")
    return found


def main() -> None:
    options = arguments(__doc__, LIMIT_S).parse_args()
    try:
        with workplace(options.limit) as here:
            found = measure(here, options.parameters, options.rounds)
        notes = ("POC, its defaults, mutual TLS",)
        Timing.of("NVFlare", version("nvflare"), options.parameters, found, notes).print()
    except (PeerError, OSError) as error:
        raise SystemExit(f"nvflare_network.py: {error}") from None


if __name__ == "__main__":
    main()
