"""What both sides check of advertised keys and nonces, each against the group that it pins itself (rules 3 and 8)."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

from unisono.errors import ProtocolError
from unisono.protection.secagg.graph import Graph, commitment, draw, seed_of
from unisono.protection.secagg.group import Group
from unisono.protection.secagg.keys import KEY_BYTES, agree, private_key
from unisono.protection.secagg.messages import Advertise, Commitment, KeyRoster

_PROBE = bytes(KEY_BYTES)
"""A private key of nobody's: with a key of small order every private key gives the same useless secret (RFC 7748, 6.1)."""


def check_commitment(item: Commitment, group: Group) -> None:
    """`ProtocolError` unless the commitment is of this group's, and signed by its site."""
    _same_group(item.site, item.run, item.group, group)
    group.roster.verify(item.site, item.signed(), item.signature)


def check_commitments(items: Iterable[Commitment], group: Group) -> dict[str, bytes]:
    """One commitment of every site of the group, checked; by site."""
    found: dict[str, bytes] = {}
    for item in items:
        if item.site in found:
            raise _incomplete_nonces(group)
        check_commitment(item, group)
        found[item.site] = item.commitment
    if set(found) != set(group.sites):
        raise _incomplete_nonces(group)
    return found


def check_advertised(item: Advertise, group: Group, slot: str, recipient: str, *, signature: bool = True) -> None:
    """`ProtocolError` unless the keys are for this group, slot and recipient, and signed by their site. signature: whether to
    look at that too; those whose keys are used must."""
    item.check_slot(group.run, slot)
    _same_group(item.site, item.run, item.group, group)
    if item.recipient != recipient:
        raise ProtocolError(
            f"{item.site} advertised its keys for a sum that another party reads ({item.recipient or 'the coordinator'}).",
            rule="recipient",
            remedy="Who reads a sum is fixed when its keys are made. The coordinator told its sites different things.",
            evidence={"signed": item.signed().decode(), "signature": item.signature.hex()},
        )
    if signature:
        group.roster.verify(item.site, item.signed(), item.signature)


def check_usable(item: Advertise) -> None:
    """`ProtocolError`, naming the site, if one of its keys is of small order: nothing can be shared with it, and every
    neighbour would refuse to mask. The coordinator asks before it relays; each site finds it when it uses the key."""
    probe = private_key(_PROBE)
    try:
        for key in (item.mask_key, item.channel_key):
            agree(probe, key)
    except ProtocolError as error:
        raise ProtocolError(
            f"{item.site} advertised a key that is no usable X25519 key.",
            rule="usable-keys",
            remedy=error.remedy,
            evidence={"signed": item.signed().decode(), "signature": item.signature.hex()},
        ) from error


def check_keys(keys: KeyRoster) -> dict[str, Advertise]:
    """The advertised keys by site. `ProtocolError` if a site, or a key, is there twice: one key is one site's, for one
    purpose, in one slot."""
    by_site = {item.site: item for item in keys.advertised}
    public = [key for item in keys.advertised for key in (item.mask_key, item.channel_key)]
    if len(by_site) != len(keys.advertised) or len(set(public)) != len(public):
        raise ProtocolError(
            "One key, or one site, was advertised twice.",
            rule="reused-keys",
            remedy="A site copied another's key or its randomness is broken; leave it out until that is explained.",
        )
    return by_site


def graph_of(
    group: Group, advertised: Mapping[str, Advertise], commitments: Mapping[str, bytes]
) -> tuple[Graph, bytes]:
    """The graph and its seed, from every site's revealed nonce. `ProtocolError` if one is missing or not the committed one."""
    nonces = {site: item.nonce for site, item in advertised.items()}
    if set(nonces) != set(group.sites) or set(commitments) != set(group.sites) or not all(nonces.values()):
        raise _incomplete_nonces(group)
    for site, nonce in nonces.items():
        if not hmac.compare_digest(commitment(group.run, group.digest, site, nonce), commitments[site]):
            raise ProtocolError(
                f"{site} revealed another nonce than the one it committed to.",
                rule="graph-nonces",
                remedy="It tried to choose the graph. Leave it out until that is explained; this is logged.",
                evidence={"site": site, "nonce": nonce.hex(), "commitment": commitments[site].hex()},
            )
    seed = seed_of(group.run, group.digest, nonces)
    return draw(group.sites, group.parameters, seed), seed


def _same_group(site: str, run: str, digest: str, group: Group) -> None:
    if run != group.run:
        raise ProtocolError(
            f"A message of {site} belongs to another run.",
            rule="other-slot",
            remedy="It was replayed. Nothing was used of it.",
        )
    if digest != group.digest:
        raise ProtocolError(
            f"{site} takes part in another group: its roster, its set of sites or its parameters differ from ours.",
            rule="pinned-roster",
            remedy="Compare the word-codes of the rosters and the study's protection at both, and renew the permit that is "
            "out of date.",
            evidence={"site": site, "group": digest, "ours": group.digest},
        )


def _incomplete_nonces(group: Group) -> ProtocolError:
    return ProtocolError(
        f"The graph of {len(group.sites)} sites needs one committed and revealed nonce of each.",
        rule="graph-nonces",
        remedy="The coordinator must relay exactly what the sites sent. Start again when all sites are there.",
    )
