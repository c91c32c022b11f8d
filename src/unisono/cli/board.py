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


def readiness_cells(found: dict[str, Any]) -> tuple[str, ...]:
    """One site's line. What a site says of itself is shown as text, whatever it is."""
    from unisono.methods.registry import methods
    from unisono.network.agent.text import plain

    about = found.get("about") if isinstance(found.get("about"), dict) else {}
    assert isinstance(about, dict)
    ready, where, has = (_mapping(about.get(key)) for key in ("readiness", "environment", "methods"))
    disk = ready.get("disk_free_bytes")
    disk_free = f"{disk / 1e9:,.0f} GB" if isinstance(disk, int | float) else "-"
    software = f"Unisono {where.get('unisono', '?')}, Python {where.get('python', '?')}" if where else "-"
    differ = [
        f"{n} {has.get(n, 'missing')} (here {m.version})" for n, m in methods().items() if has.get(n) != m.version
    ]
    agrees = ("as here" if not differ else "; ".join(differ)) if has else "-"
    cells = (ready.get("cpus", "-"), disk_free, ready.get("studies", "-"), software, agrees)
    return ("yes" if found.get("online") else "no", *(plain(str(value), 200) for value in cells))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
