"""From mappings to rules. Pure but for the calls of an injected kernel; what touches the real one is in privileged/.

mapping.py (the values) → backend.py (the interface) → nft_backend.py with nft.py and ruleset.py | fake.py
"""
