"""Preflight: what a hospital runs before it joins, and a report that its IT desk can act on.

A check looks at one thing between this machine and the coordinator, or at this machine itself, and never stops the others.
"""
