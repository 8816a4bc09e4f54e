"""The fast path between real hosts: namespaces, veth, the real loader, the real rules behind it."""
