"""The only place that touches libnftables, netlink, conntrack and kernel parameters. Values in and out; no policy.

`kernel.open_nft_backend` puts it together for the agent.
"""
