"""Booted Debian systems as hosts of the lab, and the scenarios of an appliance's life on them.

trees.py keeps the file systems, booted.py boots one behind lab.host's interface, packages.py builds the .debs and serves
them to apt, appliance.py is a row of booted hosts with the packages on them, traffic.py numbers datagrams and counts them
in the kernel. The tests: install, start, enable, reboot, the whole chain with video, reload, restart, upgrade, purge.
"""
