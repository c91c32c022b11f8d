"""The cells of the operator's boards: members and sites, as the coordinator and the sites themselves tell of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any


def fingerprint(member: dict[str, Any]) -> str:
    """Of a member's identity, as its owner sees it."""
    from unisono.protection.secagg.roster import Roster

    name = str(member["name"])
    return Roster({name: bytes.fromhex(member["identity"])}).fingerprint(name)


def online_cell(member: dict[str, Any], online: set[str] | None) -> str:
    """Whether a site is there; online: the names of those who are, None if nobody knows."""
    if member["role"] != "site":
        return "-"  # people come and go
    return "?" if online is None else "yes" if member["name"] in online else "no"


def until_cell(member: dict[str, Any]) -> str:
    """Certificates hold for so long after they were made (never longer than the authority's)."""
    from unisono.network.pki import VALID_DAYS

    certified = member.get("certified")
    return f"{datetime.fromisoformat(certified) + timedelta(days=VALID_DAYS):%Y-%m-%d}" if certified else "-"


READINESS = ("site", "there", "certificate", "clock", "machine", "preflight", "studies", "software", "methods")
"""The heads of the board."""
_SKEW_S = 60.0


def readiness_cells(found: dict[str, Any]) -> tuple[str, ...]:
    """One site's line. What a site says of itself is shown as text, whatever it is."""
    from unisono.methods.registry import methods
    from unisono.network.agent.text import plain

    about = _mapping(found.get("about"))
    ready, where, has, flown = (_mapping(about.get(k)) for k in ("readiness", "environment", "methods", "preflight"))
    software = f"Unisono {where.get('unisono', '?')}, Python {where.get('python', '?')}" if where else "-"
    differ = [
        f"{n} {has.get(n, 'missing')} (here {m.version})" for n, m in methods().items() if has.get(n) != m.version
    ]
    agrees = ("as here" if not differ else "; ".join(differ)) if has else "-"
    seen, until = str(found.get("seen") or ""), str(found.get("expires") or "-")
    there = "yes" if found.get("online") else f"no, last {seen[:16].replace('T', ' ')}" if seen else "no"
    cells = (
        until[:10],
        _clock(found),
        _machine(ready, flown),
        _flown(flown),
        ready.get("studies", "-"),
        software,
        agrees,
    )
    return (there, *(plain(str(value), 200) for value in cells))


def _clock(found: dict[str, Any]) -> str:
    skew = found.get("clock_skew_s")
    if not isinstance(skew, int | float):
        return "-"
    return "right" if abs(skew) < _SKEW_S else f"{abs(skew):,.0f} s {'ahead' if skew > 0 else 'behind'}"


def _machine(ready: dict[str, Any], flown: dict[str, Any]) -> str:
    """Processors, disk, and graphics cards as the last preflight found them."""
    if not ready:
        return "-"
    disk, cards = ready.get("disk_free_bytes"), flown.get("cards")
    free = f"{disk / 1e9:,.0f} GB free" if isinstance(disk, int | float) else "disk unknown"
    card = "; ".join(str(card).split(",")[0] for card in cards) if isinstance(cards, list) and cards else "no GPU seen"
    return f"{ready.get('cpus', '?')} CPUs, {free}, {card}"


def _flown(flown: dict[str, Any]) -> str:
    """The verdict of the last preflight, and what it is about."""
    if not flown:
        return "not run"
    bad = [str(name) for name, status in flown.items() if status in ("warn", "fail") and name != "status"]
    about = f": {', '.join(bad)}" if bad else ""
    return f"{flown.get('status', '?')}{about} ({str(flown.get('when', '?'))[:10]})"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
