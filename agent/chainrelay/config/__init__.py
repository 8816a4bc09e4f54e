"""Files that an administrator edits -> values, and everything that can be wrong with them.

    lines.py      where a key stands in a TOML text
    problems.py   what is wrong, where, and how to mend it: collected, never one at a time
    schema.py     keys and tables of keys, reading with them; unknown keys and their nearest valid name
    kinds.py      types of values: an integer in a range, a prefix, a list of endpoints, …
    files.py      one TOML file read with its schema
    keys.py       key files: making and reading
    peers.py      peers.toml  (M20), and whom other files may refer to
    routes.py     routes.toml (M19)
    access.py     access.toml (M21, M16)
    host.py       what the kernel says about ports: the only reader of /proc
    pool.py       whether a pool of ports can be used on this host
    agent.py      agent.toml and these three -> AgentConfig
    client.py     client.toml and these three -> ClientConfig
    check.py      --check-config, for people and as JSON
    diff.py       what a reload changes
    reference.py  the schema as Markdown (docs/configuration.md)

Nothing here opens a socket, knows the clock or starts anything. Keys never stand in the TOML.
"""
