"""Hosts, links, rows and rulesets for tests on one machine. Everything real: kernel, sockets, processes.

A test asks for a `row.Row` (client – fw1 – … – server) or single `host.Namespace`s joined by `link.connect`. Whatever
is opened here is closed after a failure, Ctrl-C or SIGTERM (`cleanup`), by name and pid, never by pattern. No
assertions about chainrelay live here, and chainrelay knows nothing of this package.
"""
