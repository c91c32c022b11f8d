"""What a `tell` leaves at a site: sheets in the site's own folder, marked as staying there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unisono.federation.ask import Ask
from unisono.federation.storage import write_whole

NOTICE = "This file concerns one hospital alone and stays at that hospital."


def keep_sheet(home: Path, ask: Ask, sheet: dict[str, Any]) -> Path:
    """Write ``<home>/<analysis>.json``."""
    path = home / f"{ask.analysis}.json"
    document = {"notice": NOTICE, "study": ask.study, "analysis": ask.analysis, **sheet}
    write_whole(path, (json.dumps(document, indent=2) + "\n").encode(), "site's sheet")
    return path
