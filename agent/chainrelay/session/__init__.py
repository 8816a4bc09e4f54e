"""The pure core of a relay: tables, policy, port pool and the state machine of sessions. No socket, clock or random."""
