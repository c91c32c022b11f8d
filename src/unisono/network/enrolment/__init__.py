"""How an institution joins a federation: a one-time token, a request with keys made at home, and the list of members.

The operator invites (`Invitations.invite`) and hands the token over. At the institution `JoinRequest.make` proves three keys
over one statement: the token's bootstrap key, the new TLS key, and the Ed25519 identity. At the coordinator `accept` uses the
token up and writes the member down; with the authority's key apart, the request waits, goes to the key as a file and the
certificate comes back as one. No private key but the token's own ever travels. (design/secure-aggregation.md, rule 3.)
"""
