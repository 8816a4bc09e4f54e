"""The only asyncio: connections, timers, and the shell that carries out what the engine decides."""
