"""What a `tell` leaves at a site: sheets in the site's own folder, marked as staying there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unisono.federation.ask import Ask
from unisono.federation.journal import storage

NOTICE = "This file concerns one hospital alone and stays at that hospital."


def keep_sheet(home: Path, ask: Ask, sheet: dict[str, Any]) -> Path:
    """Write ``<home>/<analysis>.json``."""
    path = home / f"{ask.analysis}.json"
    with storage(path, "site's sheet"):
        path.write_text(
            json.dumps({"notice": NOTICE, "study": ask.study, "analysis": ask.analysis, **sheet}, indent=2) + "\n",
            "utf-8",
        )
    return path
