"""Seconds per round of a do-nothing FedAvg in Flower's deployment runtime: one superlink, three supernodes, TLS on loopback.

    .bench-venv/bin/python benchmarks/peers/flower_network.py --parameters 10000 --rounds 10
    .bench-venv/bin/python benchmarks/peers/flower_network.py --parameters 1000000 --rounds 3 --secagg

Flower as it comes: its own programs with their defaults, the app of `flower_do_nothing` (`--secagg`: the one of
`flower_do_nothing_secagg`, its SecAgg+ workflow) submitted with `flwr run`. A round is from one `configure_train` to the
next, by the server app's clock; what it takes to start and to submit is not in it. TLS is the server's: Flower has no
mutual TLS. The sum is checked at the end.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from certificates import Certificates, certificates
from timing import HERE, SITES, PeerError, Timing, arguments
from workplace import Workplace, free_ports, listening, workplace

LIMIT_S = 300
WRONG = 1e-2
"""The most by which the final model may differ from what the sites added up: far above rounding and quantising."""


def start(here: Workplace, papers: Certificates, environment: dict[str, str], port: int) -> None:
    """The superlink and the supernodes."""
    programs = Path(sys.executable).parent
    here.start(
        "superlink",
        [
            programs / "flower-superlink",
            *("--ssl-ca-certfile", papers.authority),
            *("--ssl-certfile", papers.server),
            *("--ssl-keyfile", papers.server_key),
            *("--host", "127.0.0.1"),
            *("--port", str(port)),
            "--disable-runtime-dependency-installation",
        ],
        environment,
    )
    here.until(lambda: listening(port), "the superlink listens")
    for site, own_port in enumerate(free_ports(SITES)):
        here.start(
            f"supernode-{site}",
            [
                programs / "flower-supernode",
                *("--root-certificates", papers.authority),
                *("--superlink", f"127.0.0.1:{port}"),
                *("--port", str(own_port)),
                *("--node-config", f"site={site} sites={SITES}"),
            ],
            environment,
        )


def measure(here: Workplace, app: Path, parameters: int, rounds: int) -> dict[str, Any]:
    """What the server app wrote: stamps, answers per round, the final model's error."""
    papers = certificates(here.folder / "certificates")
    home, out, port = here.folder / "home", here.folder / "rounds.json", free_ports(1)[0]
    temporary = here.folder / "temporary"
    home.mkdir()
    temporary.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "here"\n\n[superlink.here]\n'
        f'address = "127.0.0.1:{port}"\nroot-certificates = "{papers.authority}"\ninsecure = false\n',
        "utf-8",
    )
    programs = Path(sys.executable).parent
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",  # the superlink starts its helpers by name
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
    }
    start(here, papers, environment, port)
    copy = Path(shutil.copytree(app, here.folder / "app", ignore=shutil.ignore_patterns("__pycache__")))
    setting = f'parameters={parameters} rounds={rounds} sites={SITES} out="{out}"'
    submit: list[str | Path] = [programs / "flwr", "run", copy, "here", "--format", "json", "--run-config", setting]
    submitted = here.run("submit", submit, environment)
    if '"success": true' not in submitted:
        raise PeerError(f"Flower did not take the app: {submitted}")
    here.until(out.exists, "the rounds are over")
    return dict(json.loads(out.read_text("utf-8")))


def main() -> None:
    parser = arguments(__doc__, LIMIT_S)
    parser.add_argument("--secagg", action="store_true", help="under Flower's SecAgg+ (two of three shares open)")
    options = parser.parse_args()
    name = "Flower, SecAgg+" if options.secagg else "Flower"
    app = HERE / ("flower_do_nothing_secagg" if options.secagg else "flower_do_nothing")
    try:
        with workplace(options.limit) as here:
            found = measure(here, app, options.parameters, options.rounds)
            # An app that failed has said why to the superlink, whose log goes with the folder.
            if not math.isfinite(found["error"]):
                raise PeerError(f"the app failed: {here.said('superlink')}")
        if found["error"] > WRONG or any(answers != SITES for answers in found["answers"]):
            raise PeerError(f"the rounds are not whole: answers {found['answers']}, model off by {found['error']:g}")
        notes = ("deployment runtime, its defaults, state in memory; TLS without clients' certificates",)
        Timing.of(name, version("flwr"), options.parameters, found["stamps"], notes).print()
    except (PeerError, OSError) as error:
        raise SystemExit(f"flower_network.py: {error}") from None


if __name__ == "__main__":
    main()
