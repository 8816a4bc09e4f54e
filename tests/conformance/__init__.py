"""One suite for every datapath: the same mappings, the same packets in, the same packets out (docs/design.md, "The datapath")."""
