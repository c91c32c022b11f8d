"""Who is who on the wire: the federation's certificate authority, certificates and keys (X.509 v3, RFC 5280; ECDSA P-256).

A certificate says one thing, in a SAN URI: ``unisono:<role>/<name>``. It opens the port; it does not make a site count. What
counts in a sum is a site's Ed25519 identity in the roster that its peers' permits pin (design/secure-aggregation.md, rule 3).
No clock is read here: `now` is an aware datetime that the caller passes in.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from unisono.errors import NetworkError
from unisono.federation.storage import storage, write_whole
from unisono.network.roles import Role  # placeholder
